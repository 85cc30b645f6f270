/* Leaves: the locations of 64 chunks, shared by reference counts. */
#ifndef CBTFS_LEAF_H
#define CBTFS_LEAF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "format.h"
#include "pack_file.h"

enum { LOCATION_BYTES = 52 }; /* an encoded location: store/catalog/records.py */

/* The location of one chunk. */
typedef struct {
    bool is_data; /* false: the block is all zeros, and the other members are unused */
    bool is_sealed; /* in an encrypted pack */
    uint8_t kind, level, codec;
    uint32_t pack, offset, stored, plain;
    uint8_t digest[DIGEST_BYTES];
    _Atomic(pack_file *) file;       /* set once, when the pack is attached */
    _Atomic(uint32_t *) piece_crcs;  /* set once, after the header that covers them was verified; of a sealed chunk the
                                      * tags of its pieces, each of which verifies itself */
} location;

typedef struct {
    atomic_int references;
    location locations[FANOUT];
} leaf;

/* Return a leaf of zeros with one reference, or NULL. */
leaf *leaf_new(void);
leaf *leaf_hold(leaf *leaf);
/* Drop a reference. NULL is allowed. */
void leaf_drop(leaf *leaf);
/* Read all chunks in pack number *pack* from *file*, unless a file is attached already. */
void leaf_attach(leaf *leaf, uint32_t pack, pack_file *file);
/* Return a mask with bit n set if block n holds data. */
uint64_t leaf_data_mask(const leaf *leaf);

#endif
