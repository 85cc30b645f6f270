/* Which leaf covers which part of which open file: what a request needs to be answered without Python. */
#ifndef CBTFS_LEAVES_H
#define CBTFS_LEAVES_H

#include "chunk.h"

enum { LEAF_SETS = 1024, LEAF_WAYS = 4, FILE_BUCKETS = 1024 };

typedef struct open_file {
    struct open_file *next;
    uint64_t inode, size;
    uint32_t block_size;
} open_file;

typedef struct {
    uint64_t inode, index;
    leaf *leaf; /* NULL: zeros */
    bool is_used;
} known_leaf;

typedef struct {
    pthread_mutex_t lock;
    known_leaf ways[LEAF_WAYS];
    unsigned next; /* the way that goes next */
} leaf_set;

/* Open files by inode number, and a bounded number of their leaves. */
typedef struct {
    pthread_rwlock_t files_lock;
    open_file *files[FILE_BUCKETS];
    leaf_set sets[LEAF_SETS];
} leaves;

void leaves_init(leaves *leaves);
void leaves_end(leaves *leaves);
bool leaves_add_file(leaves *leaves, uint64_t inode, uint64_t size, uint32_t block_size);
/* Its leaves go, too: they hold packs open, and the number may come to mean another file. */
void leaves_drop_file(leaves *leaves, uint64_t inode);
bool leaves_find_file(leaves *leaves, uint64_t inode, uint64_t *size, uint32_t *block_size);
void leaves_put(leaves *leaves, uint64_t inode, uint64_t index, leaf *leaf);
/* Whether it is known; *found* is held, or NULL where the leaf is zeros. */
bool leaves_find(leaves *leaves, uint64_t inode, uint64_t index, leaf **found);
void leaves_clear(leaves *leaves);

#endif
