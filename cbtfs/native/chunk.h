/* Reads of chunks: from packs, or from the cache of decoded chunks. Every byte is verified. */
#ifndef CBTFS_CHUNK_H
#define CBTFS_CHUNK_H

#include "cache.h"
#include "frame.h"

typedef struct {
    chunk_cache cache;
    digest_check check;
    bool is_strict; /* verify whole raw chunks by their digest, not by the CRCs of their pieces */
} chunk_reader;

/* Result of a read. */
typedef enum {
    READ_OK,
    READ_NO_FILE, /* a pack is not attached, or its file lacks an extent */
    READ_FAILED,  /* the bytes cannot be verified; Python reads the whole chunk to find the reason */
} read_status;

/* Bytes of a chunk: in the caller's buffer, or, if the chunk is compressed, in a pinned entry of the cache. */
typedef struct {
    const uint8_t *data;
    cache_entry *pinned;
} chunk_bytes;

/* Read *length* bytes at *offset* of a chunk into *target*, or set *bytes to a pinned entry that contains them. Pass
 * bytes->pinned to chunk_cache_unpin() after use. */
read_status chunk_read(chunk_reader *reader, location *location, uint32_t offset, uint32_t length, uint8_t *target,
                       chunk_bytes *bytes);

#endif
