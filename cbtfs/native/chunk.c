/* Verified bytes of chunks from packs. */
#include "chunk.h"

#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <zstd.h>

enum {
    HEADER_BYTES = 96,
    HEAD_BYTES = 92, /* the header without its checksum */
    CODEC_STORED = 0,
    CODEC_ZSTD = 1,
    MAX_TABLE = MAX_CHUNK_BYTES / PIECE_BYTES,
    CONTENT_ROOM = 16, /* before content: the prefix, at its end */
};

static const uint8_t chunk_prefix[PREFIX_BYTES] = {'c', 'b', 't', 'f', 's', 0, 1, 0};

uint8_t *content_new(size_t length)
{
    uint8_t *memory = malloc(CONTENT_ROOM + length);
    if (memory == NULL)
        return NULL;
    uint8_t *content = memory + CONTENT_ROOM;
    memcpy(content - PREFIX_BYTES, chunk_prefix, PREFIX_BYTES);
    return content;
}

void content_free(uint8_t *content)
{
    if (content != NULL)
        free(content - CONTENT_ROOM);
}

/* Reading packs */

static bool read_exactly(int fd, struct iovec *parts, int count, off_t offset)
{
    while (count > 0) {
        ssize_t done = preadv(fd, parts, count, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        offset += done;
        while (count > 0 && (size_t)done >= parts->iov_len) {
            done -= parts->iov_len;
            parts++, count--;
        }
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + done;
            parts->iov_len -= done;
        }
    }
    return true;
}

static void put_32(uint8_t *at, uint32_t value)
{
    at[0] = value, at[1] = value >> 8, at[2] = value >> 16, at[3] = value >> 24;
}

static uint32_t get_32(const uint8_t *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

void piece_crcs(const uint8_t *data, size_t length, uint8_t *table)
{
    for (size_t at = 0; at < length; at += PIECE_BYTES, table += 4)
        put_32(table, libdeflate_crc32(0, data + at, length - at < PIECE_BYTES ? length - at : PIECE_BYTES));
}

static uint32_t table_bytes(const place *place)
{
    return place->codec == CODEC_STORED ? (place->plain + PIECE_BYTES - 1) / PIECE_BYTES * 4 : 0;
}

/* Whether *header*, with the table behind it, is exactly that of the frame that *place* tells of. */
static bool header_holds(const place *place, const uint8_t *header)
{
    uint8_t expected[HEAD_BYTES] = "CBTF";
    uint32_t table = table_bytes(place);
    put_32(expected + 4, HEADER_BYTES + table + place->stored);
    expected[10] = place->kind;
    expected[11] = place->level;
    expected[12] = place->codec;
    put_32(expected + 16, place->stored);
    put_32(expected + 20, place->plain);
    put_32(expected + 24, table);
    memcpy(expected + 52, place->digest, DIGEST_BYTES);
    if (memcmp(header, expected, HEAD_BYTES) != 0)
        return false;
    uint32_t crc = libdeflate_crc32(0, header, HEAD_BYTES);
    return libdeflate_crc32(crc, header + HEADER_BYTES, table) == get_32(header + HEAD_BYTES);
}

static uint32_t *keep_table(place *place, const uint8_t *header)
{
    uint32_t count = table_bytes(place) / 4;
    uint32_t *table = malloc(count * sizeof *table);
    if (table == NULL)
        return NULL;
    for (uint32_t piece = 0; piece < count; piece++)
        table[piece] = get_32(header + HEADER_BYTES + 4 * piece);
    uint32_t *before = NULL;
    if (!atomic_compare_exchange_strong(&place->table, &before, table)) {
        free(table);
        return before;
    }
    return table;
}

static bool pieces_hold(const uint8_t *data, uint32_t length, const uint32_t *crcs)
{
    for (uint32_t at = 0; at < length; at += PIECE_BYTES) {
        uint32_t count = length - at < PIECE_BYTES ? length - at : PIECE_BYTES;
        if (libdeflate_crc32(0, data + at, count) != *crcs++)
            return false;
    }
    return true;
}

/* Whole pieces of a raw chunk, verified by their CRCs. */
static bool read_pieces(place *place, int fd, uint32_t start, uint32_t length, uint8_t *target)
{
    uint8_t header[HEADER_BYTES + 4 * MAX_TABLE];
    uint32_t header_bytes = HEADER_BYTES + table_bytes(place);
    uint32_t *table = atomic_load(&place->table);
    struct iovec parts[2] = {{header, header_bytes}, {target, length}};
    off_t payload = (off_t)place->offset + header_bytes;
    if (table == NULL) {
        bool is_next = start == 0; /* then header and pieces come by one call */
        if (!read_exactly(fd, parts, is_next ? 2 : 1, place->offset) || !header_holds(place, header))
            return false;
        table = keep_table(place, header);
        parts[1] = (struct iovec){target, length};
        if (table == NULL || (!is_next && !read_exactly(fd, parts + 1, 1, payload + start)))
            return false;
    } else if (!read_exactly(fd, parts + 1, 1, payload + start)) {
        return false;
    }
    return pieces_hold(target, length, table + start / PIECE_BYTES);
}

/* A whole raw chunk, verified by its digest. */
static bool read_whole(chunk_cache *cache, const place *place, int fd, uint8_t *target)
{
    uint8_t header[HEADER_BYTES + 4 * MAX_TABLE], *content = content_new(place->plain);
    struct iovec parts[2] = {{header, HEADER_BYTES + table_bytes(place)}, {content, place->plain}};
    bool is_good = content != NULL && read_exactly(fd, parts, 2, place->offset) && header_holds(place, header)
        && cache->check(cache->context, content, place->plain, place->digest);
    if (is_good)
        memcpy(target, content, place->plain);
    content_free(content);
    return is_good;
}

static read_status read_stored(chunk_cache *cache, place *place, int fd, uint32_t offset, uint32_t length,
                               uint8_t *target)
{
    uint32_t start = offset / PIECE_BYTES * PIECE_BYTES;
    uint32_t end = (offset + length + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
    if (place->stored != place->plain)
        return READ_FAILED;
    if (end > place->plain)
        end = place->plain;
    if (cache->is_strict && length == place->plain)
        return read_whole(cache, place, fd, target) ? READ_OK : READ_FAILED;
    if (start == offset && end == offset + length)
        return read_pieces(place, fd, start, length, target) ? READ_OK : READ_FAILED;
    uint8_t *pieces = malloc(end - start);
    bool is_read = pieces != NULL && read_pieces(place, fd, start, end - start, pieces);
    if (is_read)
        memcpy(target, pieces + (offset - start), length);
    free(pieces);
    return is_read ? READ_OK : READ_FAILED;
}

/* Compressed chunks */

static pthread_key_t contexts;
static pthread_once_t contexts_made = PTHREAD_ONCE_INIT;

static void free_context(void *context)
{
    ZSTD_freeDCtx(context);
}

static void make_contexts(void)
{
    pthread_key_create(&contexts, free_context);
}

static ZSTD_DCtx *own_context(void)
{
    pthread_once(&contexts_made, make_contexts);
    ZSTD_DCtx *context = pthread_getspecific(contexts);
    if (context == NULL) {
        context = ZSTD_createDCtx();
        pthread_setspecific(contexts, context);
    }
    return context;
}

static bool decompress(const place *place, const uint8_t *payload, uint8_t *target)
{
    ZSTD_DCtx *context = own_context();
    if (context == NULL || ZSTD_getFrameContentSize(payload, place->stored) != place->plain)
        return false;
    if (ZSTD_findFrameCompressedSize(payload, place->stored) != place->stored)
        return false;
    return ZSTD_decompressDCtx(context, target, place->plain, payload, place->stored) == place->plain;
}

uint8_t *chunk_load_decoded(chunk_cache *cache, const place *place, int fd)
{
    uint8_t *frame = malloc(HEADER_BYTES + place->stored);
    uint8_t *content = content_new(place->plain);
    struct iovec part = {frame, HEADER_BYTES + place->stored};
    bool is_good = frame != NULL && content != NULL && read_exactly(fd, &part, 1, place->offset)
        && header_holds(place, frame) && decompress(place, frame + HEADER_BYTES, content)
        && cache->check(cache->context, content, place->plain, place->digest);
    free(frame);
    if (!is_good) {
        content_free(content);
        return NULL;
    }
    return content;
}

/* Either codec */

read_status chunk_read(chunk_cache *cache, place *place, uint32_t offset, uint32_t length, uint8_t *target,
                       chunk_bytes *found)
{
    pack_file *file = atomic_load(&place->file);
    *found = (chunk_bytes){target, NULL};
    if (place->plain > MAX_CHUNK_BYTES || place->stored > MAX_CHUNK_BYTES || offset + length > place->plain)
        return READ_FAILED;
    if (file == NULL)
        return READ_NO_FILE;
    if (place->codec == CODEC_STORED)
        return read_stored(cache, place, file->fd, offset, length, target);
    if (place->codec != CODEC_ZSTD)
        return READ_FAILED;
    decoded *entry = chunk_pin_decoded(cache, place, file->fd);
    if (entry == NULL)
        return READ_FAILED;
    *found = (chunk_bytes){entry->data + offset, entry};
    return READ_OK;
}
