#include "frame.h"

#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <zstd.h>

enum {
    HEADER_BYTES = 96,
    SEALED_HEADER_BYTES = HEADER_BYTES + AEAD_TAG_BYTES,
    CHECKED_HEADER_BYTES = 92, /* the header without its checksum */
    MAX_PIECES = MAX_CHUNK_BYTES / PIECE_BYTES,
};

/* Reading */

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

/* Headers and CRCs of pieces */

static void put_32(uint8_t *bytes, uint32_t value)
{
    bytes[0] = value, bytes[1] = value >> 8, bytes[2] = value >> 16, bytes[3] = value >> 24;
}

static uint32_t get_32(const uint8_t *bytes)
{
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

void frame_piece_crcs(const uint8_t *data, size_t length, uint8_t *table)
{
    for (size_t start = 0; start < length; start += PIECE_BYTES, table += 4) {
        size_t count = length - start < PIECE_BYTES ? length - start : PIECE_BYTES;
        put_32(table, libdeflate_crc32(0, data + start, count));
    }
}

/* Return the size of the CRC table between the header and the payload. */
static uint32_t table_bytes(const location *location)
{
    return location->codec == CODEC_STORED ? (location->plain + PIECE_BYTES - 1) / PIECE_BYTES * 4 : 0;
}

/* Return true if *header*, followed by the CRC table, is exactly the header that *location* describes. */
static bool is_expected_header(const location *location, const uint8_t *header)
{
    uint8_t expected[CHECKED_HEADER_BYTES] = "CBTF";
    uint32_t table = table_bytes(location);
    put_32(expected + 4, HEADER_BYTES + table + location->stored);
    expected[10] = location->kind;
    expected[11] = location->level;
    expected[12] = location->codec;
    put_32(expected + 16, location->stored);
    put_32(expected + 20, location->plain);
    put_32(expected + 24, table);
    memcpy(expected + 52, location->digest, DIGEST_BYTES);
    if (memcmp(header, expected, CHECKED_HEADER_BYTES) != 0)
        return false;
    uint32_t crc = libdeflate_crc32(0, header, CHECKED_HEADER_BYTES);
    return libdeflate_crc32(crc, header + HEADER_BYTES, table) == get_32(header + CHECKED_HEADER_BYTES);
}

/* Keep the CRCs of a verified header in *location*. Return them, or NULL if there is no memory. */
static uint32_t *keep_piece_crcs(location *location, const uint8_t *header)
{
    uint32_t count = table_bytes(location) / 4;
    uint32_t *crcs = malloc(count * sizeof *crcs);
    if (crcs == NULL)
        return NULL;
    for (uint32_t piece = 0; piece < count; piece++)
        crcs[piece] = get_32(header + HEADER_BYTES + 4 * piece);
    uint32_t *existing = NULL;
    if (!atomic_compare_exchange_strong(&location->piece_crcs, &existing, crcs)) {
        free(crcs);
        return existing;
    }
    return crcs;
}

static bool have_crcs(const uint8_t *data, uint32_t length, const uint32_t *crcs)
{
    for (uint32_t start = 0; start < length; start += PIECE_BYTES) {
        uint32_t count = length - start < PIECE_BYTES ? length - start : PIECE_BYTES;
        if (libdeflate_crc32(0, data + start, count) != *crcs++)
            return false;
    }
    return true;
}

/* Sealed chunks */

static aead_frame sealed_frame(const location *location)
{
    return (aead_frame){location->offset, location->kind,   location->level, location->codec,
                        location->plain,  location->stored, location->digest};
}

uint32_t chunk_frame_bytes(const location *location)
{
    aead_frame frame = sealed_frame(location);
    if (location->is_sealed)
        return SEALED_HEADER_BYTES + aead_tags_bytes(&frame) + location->stored;
    return HEADER_BYTES + table_bytes(location) + location->stored;
}

/* Read the tags, if *tags* is not NULL, and *length* encrypted bytes of the payload from *start* on; in one call, if
 * the bytes follow the tags. */
static bool read_pieces(const aead_frame *frame, int fd, uint8_t *tags, uint32_t start, uint32_t length, uint8_t *data)
{
    uint32_t tags_bytes = aead_tags_bytes(frame);
    off_t place = (off_t)frame->offset + SEALED_HEADER_BYTES;
    struct iovec parts[2] = {{tags, tags_bytes}, {data, length}};
    if (tags == NULL)
        return read_exactly(fd, parts + 1, 1, place + tags_bytes + start);
    if (start == 0)
        return read_exactly(fd, parts, 2, place);
    return read_exactly(fd, parts, 1, place) && read_exactly(fd, parts + 1, 1, place + tags_bytes + start);
}

/* Read and decrypt *length* bytes of the payload from *start* on to *data*; clear it if that fails. The tags, which
 * *location* keeps, bind the frame to its location and its digest, so its header need not be read. */
static bool read_sealed(location *location, const pack_file *file, uint32_t start, uint32_t length, uint8_t *data)
{
    const pack_key *key = atomic_load(&file->key);
    aead_frame frame = sealed_frame(location);
    uint32_t *kept = atomic_load(&location->piece_crcs);
    uint32_t *tags = kept == NULL ? malloc(aead_tags_bytes(&frame)) : kept;
    bool is_intact = key != NULL && tags != NULL
        && read_pieces(&frame, file->fd, kept == NULL ? (uint8_t *)tags : NULL, start, length, data)
        && aead_open_payload(key, &frame, start, length, (const uint8_t *)tags, data);
    if (!is_intact)
        memset(data, 0, length);
    if (kept == NULL && !(is_intact && atomic_compare_exchange_strong(&location->piece_crcs, &kept, tags)))
        free(tags);
    return is_intact;
}

static bool read_sealed_whole(location *location, const pack_file *file, const digest_check *check, uint8_t *target)
{
    uint8_t *content = check->needs_prefix ? content_new(location->plain) : target;
    bool is_intact = content != NULL && read_sealed(location, file, 0, location->plain, content)
        && check->function(check->context, content, location->plain, location->digest);
    if (content == target)
        return is_intact;
    if (is_intact)
        memcpy(target, content, location->plain);
    content_free(content);
    return is_intact;
}

/* Raw chunks */

bool frame_read_pieces(location *location, const pack_file *file, uint32_t start, uint32_t length, uint8_t *target)
{
    if (location->is_sealed)
        return read_sealed(location, file, start, length, target);
    int fd = file->fd;
    uint8_t header[HEADER_BYTES + 4 * MAX_PIECES];
    uint32_t header_bytes = HEADER_BYTES + table_bytes(location);
    uint32_t *crcs = atomic_load(&location->piece_crcs);
    struct iovec parts[2] = {{header, header_bytes}, {target, length}};
    off_t payload = (off_t)location->offset + header_bytes;
    if (crcs == NULL) {
        bool follows_header = start == 0; /* one call then reads the header and the pieces */
        if (!read_exactly(fd, parts, follows_header ? 2 : 1, location->offset)
            || !is_expected_header(location, header))
            return false;
        crcs = keep_piece_crcs(location, header);
        parts[1] = (struct iovec){target, length}; /* read_exactly() may have advanced it */
        if (crcs == NULL || (!follows_header && !read_exactly(fd, parts + 1, 1, payload + start)))
            return false;
    } else if (!read_exactly(fd, parts + 1, 1, payload + start)) {
        return false;
    }
    return have_crcs(target, length, crcs + start / PIECE_BYTES);
}

bool frame_read_whole(location *location, const pack_file *file, const digest_check *check, uint8_t *target)
{
    if (location->is_sealed)
        return read_sealed_whole(location, file, check, target);
    uint8_t header[HEADER_BYTES + 4 * MAX_PIECES];
    uint8_t *content = check->needs_prefix ? content_new(location->plain) : target;
    struct iovec parts[2] = {{header, HEADER_BYTES + table_bytes(location)}, {content, location->plain}};
    bool is_intact = content != NULL && read_exactly(file->fd, parts, 2, location->offset)
        && is_expected_header(location, header)
        && check->function(check->context, content, location->plain, location->digest);
    if (content == target)
        return is_intact;
    if (is_intact)
        memcpy(target, content, location->plain);
    content_free(content);
    return is_intact;
}

/* Compressed chunks */

static pthread_key_t thread_context;
static pthread_once_t thread_context_once = PTHREAD_ONCE_INIT;

static void free_context(void *context)
{
    ZSTD_freeDCtx(context);
}

static void create_thread_context_key(void)
{
    pthread_key_create(&thread_context, free_context);
}

/* Return the zstd context of this thread, or NULL. */
static ZSTD_DCtx *get_thread_context(void)
{
    pthread_once(&thread_context_once, create_thread_context_key);
    ZSTD_DCtx *context = pthread_getspecific(thread_context);
    if (context == NULL) {
        context = ZSTD_createDCtx();
        pthread_setspecific(thread_context, context);
    }
    return context;
}

static bool decompress_payload(const location *location, const uint8_t *payload, uint8_t *target)
{
    ZSTD_DCtx *context = get_thread_context();
    if (context == NULL || ZSTD_getFrameContentSize(payload, location->stored) != location->plain)
        return false;
    if (ZSTD_findFrameCompressedSize(payload, location->stored) != location->stored)
        return false;
    return ZSTD_decompressDCtx(context, target, location->plain, payload, location->stored) == location->plain;
}

/* Read the compressed payload of a chunk. Return memory that the caller frees, with the payload at *payload, or NULL. */
static uint8_t *read_compressed(const location *location, const pack_file *file, uint8_t **payload)
{
    aead_frame frame = sealed_frame(location);
    const pack_key *key = atomic_load(&file->key);
    uint32_t header = location->is_sealed ? SEALED_HEADER_BYTES + aead_tags_bytes(&frame) : HEADER_BYTES;
    uint32_t skipped = location->is_sealed ? SEALED_HEADER_BYTES : 0;
    uint8_t *memory = malloc(header + location->stored);
    if (memory == NULL)
        return NULL;
    *payload = memory + header;
    struct iovec part = {memory + skipped, header - skipped + location->stored};
    bool is_read = read_exactly(file->fd, &part, 1, (off_t)location->offset + skipped);
    if (is_read && location->is_sealed)
        is_read = key != NULL && aead_open_payload(key, &frame, 0, location->stored, memory + skipped, *payload);
    else if (is_read)
        is_read = is_expected_header(location, memory);
    if (!is_read) {
        free(memory);
        return NULL;
    }
    return memory;
}

bool frame_decompress_to(const location *location, const pack_file *file, const digest_check *check, uint8_t *target)
{
    uint8_t *payload = NULL;
    uint8_t *memory = read_compressed(location, file, &payload);
    bool is_intact = memory != NULL && decompress_payload(location, payload, target)
        && check->function(check->context, target, location->plain, location->digest);
    free(memory);
    return is_intact;
}

uint8_t *frame_decompress(const location *location, const pack_file *file, const digest_check *check)
{
    uint8_t *content = content_new(location->plain);
    if (content == NULL || frame_decompress_to(location, file, check, content))
        return content;
    content_free(content);
    return NULL;
}
