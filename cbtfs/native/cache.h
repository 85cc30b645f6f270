/* The cache of decoded chunks. It knows nothing of packs: the caller passes a function that loads a chunk. */
#ifndef CBTFS_CACHE_H
#define CBTFS_CACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* A decoded chunk. Its bytes stay valid while it is pinned. */
typedef struct cache_entry {
    struct cache_entry *next_in_bucket, *newer, *older;
    uint8_t digest[DIGEST_BYTES];
    uint8_t *content;
    uint32_t length;
    int pins;
    bool is_loading, has_failed, is_in_bucket;
} cache_entry;

/* Decoded chunks by digest, bounded in bytes. The least recently used is evicted first. Concurrent requests for one
 * chunk load it once. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    cache_entry **buckets;
    size_t bucket_count;
    cache_entry *newest, *oldest;
    size_t capacity, cached_bytes;
} chunk_cache;

/* Return verified content from content_new(), or NULL. Called without the cache's lock. */
typedef uint8_t *(*cache_loader)(void *context);

/* Return false if there is no memory; chunk_cache_destroy() is required in either case. */
bool chunk_cache_init(chunk_cache *cache, size_t capacity);
void chunk_cache_destroy(chunk_cache *cache);
/* Return the pinned entry of the chunk with that digest and length, loaded if necessary, or NULL if loading fails. */
cache_entry *chunk_cache_pin(chunk_cache *cache, const uint8_t *digest, uint32_t length, cache_loader load,
                             void *context);
/* Allow the eviction of an entry. NULL is allowed. */
void chunk_cache_unpin(chunk_cache *cache, cache_entry *pinned);
size_t chunk_cache_bytes(chunk_cache *cache);

#endif
