/* Open files by inode number: disks, and slices, which consist of parts of disks. */
#ifndef CBTFS_FILE_TABLE_H
#define CBTFS_FILE_TABLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FILE_BUCKETS = 1024, NO_DISK = 0 /* FUSE does not use this inode number */ };

/* The first byte of a range of the disk with inode number *disk*. NO_DISK: the range is zeros. */
typedef struct {
    uint64_t disk, offset;
} disk_area;

/* The bytes [start, start + length) of a slice, on one area or striped over several. */
typedef struct {
    uint64_t start, length;
    uint64_t stripe_bytes; /* bytes on one area before the next area continues */
    size_t first_area, area_count;
} slice_segment;

typedef struct open_file {
    struct open_file *next;
    uint64_t inode, size;
    uint32_t block_size;     /* of a disk */
    slice_segment *segments; /* of a slice: contiguous, ascending; NULL for a disk */
    size_t segment_count;
    disk_area *areas;
} open_file;

/* Consecutive bytes of a file that are consecutive on one disk. */
typedef struct {
    uint64_t disk, offset, length;
    uint32_t block_size; /* of the disk */
} file_piece;

typedef struct {
    pthread_rwlock_t lock;
    open_file *buckets[FILE_BUCKETS];
} file_table;

typedef enum {
    FILE_FOUND,
    FILE_END,    /* the offset is at or beyond the end */
    FILE_UNKNOWN /* the file, or the disk that contains the byte, is not open */
} file_status;

void file_table_init(file_table *table);
void file_table_destroy(file_table *table);
/* Add a disk. Return false if there is no memory. A file that is open already stays as it is. */
bool file_table_add_disk(file_table *table, uint64_t inode, uint64_t size, uint32_t block_size);
/* Add a slice and take ownership of *segments* and *areas*, which are valid. */
bool file_table_add_slice(file_table *table, uint64_t inode, slice_segment *segments, size_t count, disk_area *areas);
bool file_table_has(file_table *table, uint64_t inode);
void file_table_drop(file_table *table, uint64_t inode);
/* Set *size, unless the file is unknown, and *piece to the longest piece that begins at *offset*. */
file_status file_table_find(file_table *table, uint64_t inode, uint64_t offset, uint64_t *size, file_piece *piece);

#endif
