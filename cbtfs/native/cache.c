/* The lock is held for look-ups only, never while a chunk is read or decoded. */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

#include "content.h"

enum { BYTES_PER_BUCKET = 16 << 10 }; /* capacity for each bucket of the hash table */

bool chunk_cache_init(chunk_cache *cache, size_t capacity)
{
    memset(cache, 0, sizeof *cache);
    cache->bucket_count = capacity / BYTES_PER_BUCKET + 1;
    cache->buckets = calloc(cache->bucket_count, sizeof *cache->buckets);
    cache->capacity = capacity;
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->loaded, NULL);
    return cache->buckets != NULL;
}

static cache_entry **bucket_of(chunk_cache *cache, const uint8_t *digest)
{
    uint64_t hash;
    memcpy(&hash, digest, sizeof hash);
    return &cache->buckets[hash % cache->bucket_count];
}

/* The list of loaded entries, most recently used first */

static void list_remove(chunk_cache *cache, cache_entry *entry)
{
    *(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
    entry->newer = entry->older = NULL;
}

static void list_insert_newest(chunk_cache *cache, cache_entry *entry)
{
    entry->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

/* Entries */

static void bucket_remove(chunk_cache *cache, cache_entry *entry)
{
    cache_entry **link = bucket_of(cache, entry->digest);
    while (*link != entry)
        link = &(*link)->next_in_bucket;
    *link = entry->next_in_bucket;
    entry->is_in_bucket = false;
}

static void free_entry(cache_entry *entry)
{
    content_free(entry->content);
    free(entry);
}

static void evict(chunk_cache *cache)
{
    cache_entry *entry = cache->oldest;
    while (entry != NULL && cache->cached_bytes > cache->capacity) {
        cache_entry *newer = entry->newer;
        if (entry->pins == 0) {
            list_remove(cache, entry);
            bucket_remove(cache, entry);
            cache->cached_bytes -= entry->length;
            free_entry(entry);
        }
        entry = newer;
    }
}

/* Pin and return the entry of *digest*, created if it is missing. *must_load* is true only for its creator. */
static cache_entry *find_or_create(chunk_cache *cache, const uint8_t *digest, uint32_t length, bool *must_load)
{
    cache_entry **bucket = bucket_of(cache, digest), *entry;
    *must_load = false;
    for (entry = *bucket; entry != NULL; entry = entry->next_in_bucket)
        if (memcmp(entry->digest, digest, DIGEST_BYTES) == 0)
            break;
    if (entry == NULL) {
        entry = calloc(1, sizeof *entry);
        if (entry == NULL)
            return NULL;
        memcpy(entry->digest, digest, DIGEST_BYTES);
        entry->length = length;
        entry->is_loading = entry->is_in_bucket = *must_load = true;
        entry->next_in_bucket = *bucket;
        *bucket = entry;
    }
    entry->pins++;
    return entry;
}

static void unpin_locked(cache_entry *entry)
{
    if (--entry->pins == 0 && !entry->is_in_bucket)
        free_entry(entry);
}

void chunk_cache_unpin(chunk_cache *cache, cache_entry *pinned)
{
    if (pinned == NULL)
        return;
    pthread_mutex_lock(&cache->lock);
    unpin_locked(pinned);
    pthread_mutex_unlock(&cache->lock);
}

/* Load a new entry. The lock is held on entry and on return, but not while *load* runs. */
static void load_entry(chunk_cache *cache, cache_entry *entry, cache_loader load, void *context)
{
    pthread_mutex_unlock(&cache->lock);
    uint8_t *content = load(context);
    pthread_mutex_lock(&cache->lock);
    entry->content = content;
    entry->is_loading = false;
    entry->has_failed = content == NULL;
    if (entry->has_failed) {
        bucket_remove(cache, entry);
    } else {
        cache->cached_bytes += entry->length;
        list_insert_newest(cache, entry);
        evict(cache);
    }
    pthread_cond_broadcast(&cache->loaded);
}

/* Wait until another thread has loaded the entry, and mark it as the most recently used. */
static void await_entry(chunk_cache *cache, cache_entry *entry)
{
    while (entry->is_loading)
        pthread_cond_wait(&cache->loaded, &cache->lock);
    if (!entry->has_failed && cache->newest != entry) {
        list_remove(cache, entry);
        list_insert_newest(cache, entry);
    }
}

cache_entry *chunk_cache_pin(chunk_cache *cache, const uint8_t *digest, uint32_t length, cache_loader load,
                             void *context)
{
    bool must_load;
    pthread_mutex_lock(&cache->lock);
    cache_entry *entry = find_or_create(cache, digest, length, &must_load);
    if (entry != NULL) {
        if (must_load)
            load_entry(cache, entry, load, context);
        else
            await_entry(cache, entry);
        if (entry->has_failed || entry->length != length) {
            unpin_locked(entry);
            entry = NULL;
        }
    }
    pthread_mutex_unlock(&cache->lock);
    return entry;
}

size_t chunk_cache_bytes(chunk_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    size_t bytes = cache->cached_bytes;
    pthread_mutex_unlock(&cache->lock);
    return bytes;
}

void chunk_cache_destroy(chunk_cache *cache)
{
    for (size_t number = 0; cache->buckets != NULL && number < cache->bucket_count; number++) {
        for (cache_entry *entry = cache->buckets[number], *next; entry != NULL; entry = next) {
            next = entry->next_in_bucket;
            free_entry(entry);
        }
    }
    free(cache->buckets);
    pthread_mutex_destroy(&cache->lock);
    pthread_cond_destroy(&cache->loaded);
}
