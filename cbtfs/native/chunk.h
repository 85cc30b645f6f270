/* Chunks in packs, read and verified without Python's lock. docs/format.md is the source of every number. */
#ifndef CBTFS_CHUNK_H
#define CBTFS_CHUNK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FANOUT = 64,
    PIECE_BYTES = 4096,        /* a raw chunk has a CRC-32 for each piece */
    DIGEST_BYTES = 32,
    PREFIX_BYTES = 8,          /* what a chunk's digest is computed over before its content */
    PLACE_BYTES = 52,          /* an encoded location: store/catalog/records.py */
    MAX_CHUNK_BYTES = 1 << 22, /* no object is larger when decoded */
};

/* The CRC-32 of each piece of *data*, as they stand before a raw chunk. */
void piece_crcs(const uint8_t *data, size_t length, uint8_t *table);

/* A pack's descriptor; closed when nobody refers to it any more. */
typedef struct pack_file {
    atomic_int references;
    int fd;
    struct pack_file *before, *next; /* of all that are open */
} pack_file;

pack_file *pack_file_new(int fd);
void pack_file_drop(pack_file *file);
int pack_files_open(void);
/* Whether a file that is open was removed: its room is not free before it is closed. */
bool pack_files_removed(void);

/* Where one chunk is. */
typedef struct {
    bool is_data;                   /* else the block is zeros */
    uint8_t kind, level, codec;
    uint32_t pack, offset, stored, plain;
    uint8_t digest[DIGEST_BYTES];
    _Atomic(pack_file *) file;      /* set once, by whoever opened the pack */
    _Atomic(uint32_t *) table;      /* CRCs of the pieces, once a header with them held */
} place;

/* Where the 64 chunks of a leaf are. */
typedef struct {
    atomic_int references;
    place places[FANOUT];
} leaf;

leaf *leaf_new(void);
leaf *leaf_hold(leaf *leaf);
void leaf_drop(leaf *leaf);

/* Memory for a chunk's content, right behind the prefix of its digest: both are hashed in one pass, which takes two
 * thirds of the time that two take. */
uint8_t *content_new(size_t length);
void content_free(uint8_t *content);

/* Whether content_new()'s *content* is what *digest* names: asks Python, whose lock must not be held. */
typedef bool (*digest_check)(void *context, const uint8_t *content, size_t length, const uint8_t *digest);

/* A decoded chunk; its bytes stay as long as it is pinned. */
typedef struct decoded {
    struct decoded *next_in_bucket, *newer, *older;
    uint8_t digest[DIGEST_BYTES];
    uint8_t *data;
    uint32_t length;
    int pins;
    bool is_loading, has_failed, is_listed;
} decoded;

/* Decoded chunks by digest: bounded in bytes, least recently used goes first, loaded once however many ask. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    decoded **buckets;
    size_t bucket_count;
    decoded *newest, *oldest;
    size_t capacity, held;
    digest_check check;
    void *context;
    bool is_strict; /* whole raw chunks by their digest, not by the CRCs of their pieces */
} chunk_cache;

bool chunk_cache_init(chunk_cache *cache, size_t capacity, bool is_strict, digest_check check, void *context);
void chunk_cache_end(chunk_cache *cache);

/* How one piece of a read ended. */
typedef enum {
    READ_OK,
    READ_NO_FILE, /* the pack is to be opened first */
    READ_FAILED,  /* not proven: only a look at the whole can tell why */
} read_status;

/* Bytes of a chunk: in *target*, or, where they had to be decoded, pinned in the cache. */
typedef struct {
    const uint8_t *data;
    decoded *pinned;
} chunk_bytes;

read_status chunk_read(chunk_cache *cache, place *place, uint32_t offset, uint32_t length, uint8_t *target,
                       chunk_bytes *found);
/* What a compressed chunk decodes to, verified, from content_new(); NULL if it cannot be proven. */
uint8_t *chunk_load_decoded(chunk_cache *cache, const place *place, int fd);
/* The same in the cache, loaded if need be, and kept there until it is unpinned. */
decoded *chunk_pin_decoded(chunk_cache *cache, const place *place, int fd);
void chunk_unpin(chunk_cache *cache, decoded *pinned);

#endif
