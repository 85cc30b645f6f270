/* Frames of chunks: read from packs and verified without Python's lock. */
#ifndef CBTFS_FRAME_H
#define CBTFS_FRAME_H

#include "content.h"
#include "leaf.h"

/* Write the CRC-32 of each piece of *data* to *table*, in the format that precedes a raw chunk. */
void frame_piece_crcs(const uint8_t *data, size_t length, uint8_t *table);

/* Return the bytes from the start of a frame to the end of its payload. */
uint32_t chunk_frame_bytes(const location *location);

/* Read pieces of a raw chunk and verify their CRCs. *start* and the end of the range are piece boundaries, or the
 * end of the chunk. Nobody may use *target* before the return. If a tag of an encrypted chunk does not match, it is
 * cleared. */
bool frame_read_pieces(location *location, const pack_file *file, uint32_t start, uint32_t length, uint8_t *target);

/* Read a whole raw chunk and verify its digest. If it fails, *target* has unverified bytes. */
bool frame_read_whole(location *location, const pack_file *file, const digest_check *check, uint8_t *target);

/* Read and decompress a whole chunk and verify its digest. If it fails, *target* has unverified bytes. If the check
 * needs a prefix, *target* must come from content_new(). */
bool frame_decompress_to(const location *location, const pack_file *file, const digest_check *check,
                         uint8_t *target);

/* Read and decompress a chunk and verify its digest. Return memory from content_new(), or NULL. */
uint8_t *frame_decompress(const location *location, const pack_file *file, const digest_check *check);

#endif
