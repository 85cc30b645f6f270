/* Verified bytes of chunks: from packs, or from the cache of what was decoded. */
#include "chunk.h"

#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zstd.h>

enum {
    HEADER_BYTES = 96,
    HEAD_BYTES = 92, /* the header without its checksum */
    CODEC_STORED = 0,
    CODEC_ZSTD = 1,
    MAX_TABLE = MAX_CHUNK_BYTES / PIECE_BYTES,
    BUCKET_BYTES = 16 << 10, /* of cached data for each bucket of the hash table */
};

/* Pack files */

static atomic_int files_open;
static pack_file *files;
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;

pack_file *pack_file_new(int fd)
{
    pack_file *file = malloc(sizeof *file);
    if (file == NULL)
        return NULL;
    atomic_init(&file->references, 1);
    file->fd = fd;
    file->before = NULL;
    atomic_fetch_add(&files_open, 1);
    pthread_mutex_lock(&files_lock);
    file->next = files;
    if (files != NULL)
        files->before = file;
    files = file;
    pthread_mutex_unlock(&files_lock);
    return file;
}

void pack_file_drop(pack_file *file)
{
    if (file == NULL || atomic_fetch_sub(&file->references, 1) != 1)
        return;
    pthread_mutex_lock(&files_lock);
    *(file->before ? &file->before->next : &files) = file->next;
    if (file->next != NULL)
        file->next->before = file->before;
    pthread_mutex_unlock(&files_lock);
    close(file->fd); /* only now: pack_files_removed() looks at what is listed */
    atomic_fetch_sub(&files_open, 1);
    free(file);
}

int pack_files_open(void)
{
    return atomic_load(&files_open);
}

bool pack_files_removed(void)
{
    bool is_found = false;
    pthread_mutex_lock(&files_lock);
    for (const pack_file *file = files; file != NULL && !is_found; file = file->next) {
        struct stat facts;
        is_found = fstat(file->fd, &facts) == 0 && facts.st_nlink == 0;
    }
    pthread_mutex_unlock(&files_lock);
    return is_found;
}

/* Leaves */

leaf *leaf_new(void)
{
    leaf *made = calloc(1, sizeof *made);
    if (made != NULL)
        atomic_init(&made->references, 1);
    return made;
}

leaf *leaf_hold(leaf *leaf)
{
    atomic_fetch_add(&leaf->references, 1);
    return leaf;
}

void leaf_drop(leaf *leaf)
{
    if (leaf == NULL || atomic_fetch_sub(&leaf->references, 1) != 1)
        return;
    for (int slot = 0; slot < FANOUT; slot++) {
        pack_file_drop(atomic_load(&leaf->places[slot].file));
        free(atomic_load(&leaf->places[slot].table));
    }
    free(leaf);
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

/* Raw chunks: whole pieces, verified by their CRCs, or all of it by the digest. */
static bool read_pieces(chunk_cache *cache, place *place, int fd, uint32_t start, uint32_t length, uint8_t *target)
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
    if (cache->is_strict && length == place->plain)
        return cache->check(cache->context, target, length, place->digest);
    return pieces_hold(target, length, table + start / PIECE_BYTES);
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
    if (start == offset && end == offset + length)
        return read_pieces(cache, place, fd, start, length, target) ? READ_OK : READ_FAILED;
    uint8_t *pieces = malloc(end - start);
    bool is_read = pieces != NULL && read_pieces(cache, place, fd, start, end - start, pieces);
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

static uint8_t *load_decoded(chunk_cache *cache, const place *place, int fd)
{
    uint8_t *frame = malloc(HEADER_BYTES + place->stored);
    uint8_t *data = malloc(place->plain);
    struct iovec part = {frame, HEADER_BYTES + place->stored};
    bool is_good = frame != NULL && data != NULL && read_exactly(fd, &part, 1, place->offset)
        && header_holds(place, frame) && decompress(place, frame + HEADER_BYTES, data)
        && cache->check(cache->context, data, place->plain, place->digest);
    free(frame);
    if (!is_good) {
        free(data);
        return NULL;
    }
    return data;
}

/* The cache. Its lock is held for look-ups alone, never while something is read or decoded. */

bool chunk_cache_init(chunk_cache *cache, size_t capacity, bool is_strict, digest_check check, void *context)
{
    memset(cache, 0, sizeof *cache);
    cache->bucket_count = capacity / BUCKET_BYTES + 1;
    cache->buckets = calloc(cache->bucket_count, sizeof *cache->buckets);
    cache->capacity = capacity;
    cache->is_strict = is_strict;
    cache->check = check;
    cache->context = context;
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->loaded, NULL);
    return cache->buckets != NULL;
}

static decoded **bucket_of(chunk_cache *cache, const uint8_t *digest)
{
    uint64_t hash;
    memcpy(&hash, digest, sizeof hash);
    return &cache->buckets[hash % cache->bucket_count];
}

static void unlist(chunk_cache *cache, decoded *entry)
{
    *(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
    entry->newer = entry->older = NULL;
}

static void list_first(chunk_cache *cache, decoded *entry)
{
    entry->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static void forget_entry(chunk_cache *cache, decoded *entry)
{
    decoded **link = bucket_of(cache, entry->digest);
    while (*link != entry)
        link = &(*link)->next_in_bucket;
    *link = entry->next_in_bucket;
    entry->is_listed = false;
}

static void free_entry(decoded *entry)
{
    free(entry->data);
    free(entry);
}

static void make_room(chunk_cache *cache)
{
    decoded *entry = cache->oldest;
    while (entry != NULL && cache->held > cache->capacity) {
        decoded *newer = entry->newer;
        if (entry->pins == 0) {
            unlist(cache, entry);
            forget_entry(cache, entry);
            cache->held -= entry->length;
            free_entry(entry);
        }
        entry = newer;
    }
}

/* The entry of *digest*, pinned; with is_loading set for the one caller that has to load it. */
static decoded *find_entry(chunk_cache *cache, const place *place, bool *is_mine)
{
    decoded **bucket = bucket_of(cache, place->digest), *entry;
    *is_mine = false;
    for (entry = *bucket; entry != NULL; entry = entry->next_in_bucket)
        if (memcmp(entry->digest, place->digest, DIGEST_BYTES) == 0)
            break;
    if (entry == NULL) {
        entry = calloc(1, sizeof *entry);
        if (entry == NULL)
            return NULL;
        memcpy(entry->digest, place->digest, DIGEST_BYTES);
        entry->length = place->plain;
        entry->is_loading = entry->is_listed = *is_mine = true;
        entry->next_in_bucket = *bucket;
        *bucket = entry;
    }
    entry->pins++;
    return entry;
}

static void unpin_locked(decoded *entry)
{
    if (--entry->pins == 0 && !entry->is_listed)
        free_entry(entry);
}

void chunk_unpin(chunk_cache *cache, decoded *pinned)
{
    if (pinned == NULL)
        return;
    pthread_mutex_lock(&cache->lock);
    unpin_locked(pinned);
    pthread_mutex_unlock(&cache->lock);
}

static decoded *pin_decoded(chunk_cache *cache, const place *place, int fd)
{
    bool is_mine;
    pthread_mutex_lock(&cache->lock);
    decoded *entry = find_entry(cache, place, &is_mine);
    if (entry == NULL) {
        pthread_mutex_unlock(&cache->lock);
        return NULL;
    }
    if (is_mine) {
        pthread_mutex_unlock(&cache->lock);
        uint8_t *data = load_decoded(cache, place, fd);
        pthread_mutex_lock(&cache->lock);
        entry->data = data;
        entry->is_loading = false;
        entry->has_failed = data == NULL;
        if (entry->has_failed) {
            forget_entry(cache, entry);
        } else {
            cache->held += entry->length;
            list_first(cache, entry);
            make_room(cache);
        }
        pthread_cond_broadcast(&cache->loaded);
    } else {
        while (entry->is_loading)
            pthread_cond_wait(&cache->loaded, &cache->lock);
        if (!entry->has_failed && cache->newest != entry) {
            unlist(cache, entry);
            list_first(cache, entry);
        }
    }
    bool has_failed = entry->has_failed || entry->length != place->plain;
    if (has_failed)
        unpin_locked(entry);
    pthread_mutex_unlock(&cache->lock);
    return has_failed ? NULL : entry;
}

void chunk_cache_end(chunk_cache *cache)
{
    for (size_t number = 0; cache->buckets != NULL && number < cache->bucket_count; number++) {
        decoded *entry = cache->buckets[number], *next;
        for (; entry != NULL; entry = next) {
            next = entry->next_in_bucket;
            free_entry(entry);
        }
    }
    free(cache->buckets);
    pthread_mutex_destroy(&cache->lock);
    pthread_cond_destroy(&cache->loaded);
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
    decoded *entry = pin_decoded(cache, place, file->fd);
    if (entry == NULL)
        return READ_FAILED;
    *found = (chunk_bytes){entry->data + offset, entry};
    return READ_OK;
}
