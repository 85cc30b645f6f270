#include "chunk.h"

#include <stdlib.h>
#include <string.h>

static read_status read_stored(chunk_reader *reader, location *location, const pack_file *file, uint32_t offset, uint32_t length,
                               uint8_t *target)
{
    uint32_t start = offset / PIECE_BYTES * PIECE_BYTES;
    uint32_t end = (offset + length + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
    if (location->stored != location->plain)
        return READ_FAILED;
    if (end > location->plain)
        end = location->plain;
    if (reader->is_strict && length == location->plain)
        return frame_read_whole(location, file, &reader->check, target) ? READ_OK : READ_FAILED;
    if (start == offset && end == offset + length)
        return frame_read_pieces(location, file, start, length, target) ? READ_OK : READ_FAILED;
    uint8_t *pieces = malloc(end - start);
    bool is_read = pieces != NULL && frame_read_pieces(location, file, start, end - start, pieces);
    if (is_read)
        memcpy(target, pieces + (offset - start), length);
    free(pieces);
    return is_read ? READ_OK : READ_FAILED;
}

typedef struct {
    const location *location;
    const pack_file *file;
    const digest_check *check;
} compressed_chunk;

static uint8_t *load_compressed(void *context)
{
    const compressed_chunk *chunk = context;
    return frame_decompress(chunk->location, chunk->file, chunk->check);
}

read_status chunk_read(chunk_reader *reader, location *location, uint32_t offset, uint32_t length, uint8_t *target,
                       chunk_bytes *bytes)
{
    pack_file *file = atomic_load(&location->file);
    *bytes = (chunk_bytes){target, NULL};
    if (location->plain > MAX_CHUNK_BYTES || location->stored > MAX_CHUNK_BYTES || offset + length > location->plain)
        return READ_FAILED;
    if (file == NULL || (file->is_partial && !pack_file_has(file, location->offset, chunk_frame_bytes(location))))
        return READ_NO_FILE;
    if (location->codec == CODEC_STORED)
        return read_stored(reader, location, file, offset, length, target);
    if (location->codec != CODEC_ZSTD)
        return READ_FAILED;
    bool is_whole = offset == 0 && length == location->plain;
    if (is_whole && reader->cache.capacity == 0 && !reader->check.needs_prefix) /* nobody else wants the chunk */
        return frame_decompress_to(location, file, &reader->check, target) ? READ_OK : READ_FAILED;
    compressed_chunk chunk = {location, file, &reader->check};
    cache_entry *entry
        = chunk_cache_pin(&reader->cache, location->digest, location->plain, load_compressed, &chunk);
    if (entry == NULL)
        return READ_FAILED;
    *bytes = (chunk_bytes){entry->content + offset, entry};
    return READ_OK;
}
