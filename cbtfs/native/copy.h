/* Copies of blocks from packs to a file. Every byte is verified before it is written. */
#ifndef CBTFS_COPY_H
#define CBTFS_COPY_H

#include <stddef.h>

#include "chunk.h"

/* A file or block device that is written at any offset. */
typedef struct {
    int fd;
    int direct_fd; /* of the same file, opened with O_DIRECT; -1: there is none */
} copy_target;

/* A leaf to copy, and the memory for it. */
typedef struct {
    chunk_reader *reader;
    leaf *leaf;
    uint32_t block_size;
    uint64_t position; /* of the leaf in the target */
    uint8_t *buffer;   /* begins at a page */
    size_t buffer_bytes;
} leaf_copy;

/* Copy verified bytes of a leaf to *target*. Return their number: less than *length* at the end of the leaf, or if a
 * chunk cannot be read here. */
size_t copy_to_memory(chunk_reader *reader, leaf *leaf, uint32_t block_size, uint64_t offset, uint8_t *target,
                      size_t length);

/* Write the data of a leaf from offset *start* to *end*, and skip its zeros. Return the offset before which all data is
 * written: less than *end* if a chunk cannot be read here, or if a write failed, whose errno is then in *error*. */
uint64_t copy_to_file(const leaf_copy *copy, copy_target target, uint64_t start, uint64_t end, int *error);

#endif
