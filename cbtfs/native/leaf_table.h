/* The known leaves of open disks: enough to answer a read without Python. */
#ifndef CBTFS_LEAF_TABLE_H
#define CBTFS_LEAF_TABLE_H

#include <pthread.h>

#include "leaf.h"

enum { LEAF_SETS = 1024, LEAF_WAYS = 4 };

typedef struct {
    uint64_t inode, index;
    leaf *leaf; /* NULL: all zeros */
    bool is_used;
} known_leaf;

typedef struct {
    pthread_mutex_t lock;
    known_leaf ways[LEAF_WAYS];
    unsigned next; /* the way to replace next */
} leaf_set;

/* A set-associative table of leaves by inode number and position: it is bounded without a list of uses. */
typedef struct {
    leaf_set sets[LEAF_SETS];
} leaf_table;

void leaf_table_init(leaf_table *table);
void leaf_table_destroy(leaf_table *table);
/* Drop the leaves of a disk, because they hold packs open and the inode number can be reused. */
void leaf_table_drop(leaf_table *table, uint64_t inode);
/* Hold a leaf, or NULL for zeros, in the table. It may replace another one. */
void leaf_table_put(leaf_table *table, uint64_t inode, uint64_t index, leaf *leaf);
/* Return false if the leaf is unknown. Else *leaf* is NULL for zeros, or held for the caller. */
bool leaf_table_find(leaf_table *table, uint64_t inode, uint64_t index, leaf **leaf);
/* Drop all leaves. */
void leaf_table_clear(leaf_table *table);

#endif
