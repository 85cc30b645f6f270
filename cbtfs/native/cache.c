/* The cache of decoded chunks. Its lock is held for look-ups alone, never while something is read or decoded. */
#include "chunk.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKET_BYTES = 16 << 10 }; /* of cached data for each bucket of the hash table */

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
    content_free(entry->data);
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

decoded *chunk_pin_decoded(chunk_cache *cache, const place *place, int fd)
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
        uint8_t *data = chunk_load_decoded(cache, place, fd);
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
