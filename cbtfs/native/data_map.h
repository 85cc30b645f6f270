/* The blocks of open disks that hold data, one bit for each block: enough to find holes without Python. */
#ifndef CBTFS_DATA_MAP_H
#define CBTFS_DATA_MAP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

enum { MAP_LEAVES = 64, MAP_SETS = 256, MAP_WAYS = 4 };

/* A known range of leaves of one disk: *count* leaves from number *first* on have a mask, and all leaves from there
 * to *end* are zeros. Bit n of a mask is set if block n of the leaf holds data. */
typedef struct {
    uint64_t inode, first, end;
    uint32_t count;
    bool is_used;
    uint64_t masks[MAP_LEAVES];
} known_range;

typedef struct {
    pthread_mutex_t lock;
    known_range ways[MAP_WAYS];
    unsigned next; /* the way to replace next */
} map_set;

/* A set-associative table of ranges. A range is found by the group of 64 leaves that contains its first leaf. */
typedef struct {
    map_set sets[MAP_SETS];
} data_map;

typedef enum {
    MAP_FOUND,   /* a block of the requested state is found */
    MAP_PASSED,  /* the known range ends before such a block */
    MAP_UNKNOWN, /* the first block is not in a known range */
} map_status;

void data_map_init(data_map *map);
void data_map_destroy(data_map *map);
/* Return false if the range is invalid: it has a mask at least or zeros at least, its masks belong to one group of
 * leaves, and all its block numbers are below 2^63. */
bool data_map_put(data_map *map, uint64_t inode, uint64_t first, const void *masks, size_t count, uint64_t end);
/* Remove all ranges of a disk. */
void data_map_drop(data_map *map, uint64_t inode);
/* Search blocks from number *block* on for one that holds data or, if not *is_data*, zeros. *found is that block, or
 * the first block after the known range. */
map_status data_map_search(data_map *map, uint64_t inode, uint64_t block, bool is_data, uint64_t *found);

#endif
