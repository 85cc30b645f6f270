/* BLAKE3-256 without Python's lock, for processors with AVX2 or AVX-512. Its specification:
 * https://github.com/BLAKE3-team/BLAKE3-specs */
#ifndef CBTFS_BLAKE3_H
#define CBTFS_BLAKE3_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* Return true if this processor can compute digests in that number of lanes: 8 (AVX2), 16 (AVX-512), or 0 for the
 * most. */
bool blake3_is_available(size_t lanes);

/* Write the digest of *prefix* followed by *length* bytes, less than 2^42, to *digest*. *key* has 32 bytes; NULL:
 * the digest has no key. */
void blake3_digest(const uint8_t *key, const uint8_t prefix[PREFIX_BYTES], const uint8_t *data, size_t length,
                   uint8_t digest[DIGEST_BYTES]);
/* The same in a number of lanes that is available. */
void blake3_digest_in_lanes(size_t lanes, const uint8_t *key, const uint8_t prefix[PREFIX_BYTES], const uint8_t *data,
                            size_t length, uint8_t digest[DIGEST_BYTES]);

#endif
