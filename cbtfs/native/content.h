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

/* Return true if *content*, from content_new(), has the digest *digest*. The caller must not hold Python's lock. */
typedef bool (*digest_check_function)(void *context, const uint8_t *content, size_t length, const uint8_t *digest);

typedef struct {
    digest_check_function function;
    void *context;
} digest_check;

#endif
