/* AES-256-GCM of frames in encrypted packs, by libcrypto. docs/format.md, "Encrypted packs", defines keys and nonces. */
#ifndef CBTFS_AEAD_H
#define CBTFS_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

enum { AEAD_KEY_BYTES = 32, AEAD_TAG_BYTES = 16, AEAD_ID_BYTES = 16 };

/* A key of one pack. */
typedef struct {
    uint8_t repository[AEAD_ID_BYTES];
    uint8_t pack[AEAD_ID_BYTES];
    uint8_t key[AEAD_KEY_BYTES];
} pack_key;

/* The frame that a piece belongs to; the tag of the piece covers all members. */
typedef struct {
    uint64_t offset;
    uint8_t kind, level, codec;
    uint32_t plain, stored;
    const uint8_t *digest;
} aead_frame;

/* Encrypt *length* bytes to *target*, which may be *data*, and write their tag. Return false if libcrypto fails. */
bool aead_seal(const pack_key *key, const aead_frame *frame, uint32_t piece, const uint8_t *data, size_t length,
               uint8_t *target, uint8_t *tag);

/* Decrypt *length* bytes to *target*, which may be *data*. Return false if the tag does not match; *target*, which must
 * be memory that nobody uses before the return, then has unverified bytes. */
bool aead_open(const pack_key *key, const aead_frame *frame, uint32_t piece, const uint8_t *data, size_t length,
               const uint8_t *tag, uint8_t *target);

/* Return the bytes of a frame's tags: one for each piece of a raw chunk, else one. */
uint32_t aead_tags_bytes(const aead_frame *frame);

/* Encrypt the payload of *frame* to *target* in the pieces of its kind, and write the tags. */
bool aead_seal_payload(const pack_key *key, const aead_frame *frame, const uint8_t *payload, uint8_t *tags,
                       uint8_t *target);

/* Decrypt *length* bytes of the payload of *frame* from *start* on in private memory *data*; *tags* are those of the
 * frame. *start* is a boundary of pieces, and the end is one or the end of the payload. */
bool aead_open_payload(const pack_key *key, const aead_frame *frame, uint32_t start, uint32_t length,
                       const uint8_t *tags, uint8_t *data);

#endif
