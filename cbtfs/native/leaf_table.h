/* Open files and their known leaves: enough to answer a read without Python. */
#ifndef CBTFS_LEAF_TABLE_H
#define CBTFS_LEAF_TABLE_H

#include <pthread.h>

#include "leaf.h"

enum { LEAF_SETS = 1024, LEAF_WAYS = 4, FILE_BUCKETS = 1024 };

typedef struct open_file {
    struct open_file *next;
    uint64_t inode, size;
    uint32_t block_size;
} open_file;

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

/* Open files by inode number, and a set-associative table of their leaves: it is bounded without a list of uses. */
typedef struct {
    pthread_rwlock_t files_lock;
    open_file *files[FILE_BUCKETS];
    leaf_set sets[LEAF_SETS];
} leaf_table;

void leaf_table_init(leaf_table *table);
void leaf_table_destroy(leaf_table *table);
/* Return false if there is no memory. A file that is open already keeps its size. */
bool leaf_table_add_file(leaf_table *table, uint64_t inode, uint64_t size, uint32_t block_size);
/* Remove a file and its leaves, because leaves hold packs open and the inode number can be reused. */
void leaf_table_drop_file(leaf_table *table, uint64_t inode);
/* Return false if the file is not open. */
bool leaf_table_find_file(leaf_table *table, uint64_t inode, uint64_t *size, uint32_t *block_size);
/* Hold a leaf, or NULL for zeros, in the table. It may replace another one. */
void leaf_table_put(leaf_table *table, uint64_t inode, uint64_t index, leaf *leaf);
/* Return false if the leaf is unknown. Else *leaf* is NULL for zeros, or held for the caller. */
bool leaf_table_find(leaf_table *table, uint64_t inode, uint64_t index, leaf **leaf);
/* Drop all leaves; the files stay. */
void leaf_table_clear(leaf_table *table);

#endif
