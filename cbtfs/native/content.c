#include "content.h"

#include <stdlib.h>
#include <string.h>

#include "blake3.h"
#include "format.h"

enum { CONTENT_OFFSET = 16 }; /* bytes before the content; the prefix fills the end of them */

static const uint8_t chunk_prefix[PREFIX_BYTES] = {'c', 'b', 't', 'f', 's', 0, 1, 0};

uint8_t *content_new(size_t length)
{
    uint8_t *memory = malloc(CONTENT_OFFSET + length);
    if (memory == NULL)
        return NULL;
    uint8_t *content = memory + CONTENT_OFFSET;
    memcpy(content - PREFIX_BYTES, chunk_prefix, PREFIX_BYTES);
    return content;
}

void content_free(uint8_t *content)
{
    if (content != NULL)
        free(content - CONTENT_OFFSET);
}

void content_digest(const uint8_t *key, const uint8_t *content, size_t length, uint8_t *digest)
{
    blake3_digest(key, chunk_prefix, content, length, digest);
}

bool content_has_digest(void *context, const uint8_t *content, size_t length, const uint8_t *digest)
{
    uint8_t computed[DIGEST_BYTES];
    content_digest(context, content, length, computed);
    return memcmp(computed, digest, DIGEST_BYTES) == 0;
}

bool content_is_zero(const uint8_t *content, size_t length)
{
    return length == 0 || (content[0] == 0 && memcmp(content, content + 1, length - 1) == 0);
}

bool content_matches(uint8_t *key, const uint8_t *block, size_t length, size_t block_size, const uint8_t *digest,
                     uint8_t *padded)
{
    static const uint8_t null_digest[DIGEST_BYTES];
    if (memcmp(digest, null_digest, DIGEST_BYTES) == 0)
        return content_is_zero(block, length);
    if (length < block_size) {
        memcpy(padded, block, length);
        memset(padded + length, 0, block_size - length);
        block = padded;
    }
    return content_has_digest(key, block, block_size, digest);
}
