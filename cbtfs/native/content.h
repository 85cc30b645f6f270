/* Memory for the content of a chunk, and the interface of digest checks. */
#ifndef CBTFS_CONTENT_H
#define CBTFS_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Return memory for *length* bytes, or NULL. The prefix of the digest precedes the content, because hashing both in
 * one pass takes two thirds of the time of two passes. */
uint8_t *content_new(size_t length);
void content_free(uint8_t *content);

/* Return true if *content* has the digest *digest*. The caller must not hold Python's lock. */
typedef bool (*digest_check_function)(void *context, const uint8_t *content, size_t length, const uint8_t *digest);

typedef struct {
    digest_check_function function;
    void *context;
    bool needs_prefix; /* content must come from content_new() */
} digest_check;

/* The digest_check_function of compiled code, which needs no prefix; *context* is the key of digests, or NULL. */
bool content_has_digest(void *context, const uint8_t *content, size_t length, const uint8_t *digest);

/* Write the digest of a chunk of *length* bytes to *digest*; *key* may be NULL. */
void content_digest(const uint8_t *key, const uint8_t *content, size_t length, uint8_t *digest);

/* Return true if all bytes are zero. */
bool content_is_zero(const uint8_t *content, size_t length);

/* Return true if a block of *length* bytes, padded with zeros to *block_size*, has *digest*; 32 zeros are the digest of
 * zeros. *key* may be NULL, *padded* is a buffer of *block_size* bytes. */
bool content_matches(uint8_t *key, const uint8_t *block, size_t length, size_t block_size, const uint8_t *digest,
                     uint8_t *padded);

#endif
