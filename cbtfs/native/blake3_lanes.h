/* Lanes of BLAKE3: several chunks, or several parents, are hashed at once, one in each 32-bit lane of the registers. A
 * chunk is one of BLAKE3 here, 1 KiB of the input, and a value is a chaining value, the hash of a chunk or a parent. */
#ifndef CBTFS_BLAKE3_LANES_H
#define CBTFS_BLAKE3_LANES_H

#include <stddef.h>
#include <stdint.h>

#define BLAKE3_UNROLLED _Pragma("GCC unroll 16") /* values in arrays then stay in registers */

enum {
    BLOCK_BYTES = 64,
    CHUNK_BYTES = 1024,
    CHUNK_BLOCKS = CHUNK_BYTES / BLOCK_BYTES,
    VALUE_BYTES = 32,
    WORDS = 8, /* of a value */
    ROUNDS = 7,
    MAX_LANES = 16,
    CHUNK_START = 1,
    CHUNK_END = 2,
    PARENT = 4,
    ROOT = 8,
    KEYED = 16,
};

static const uint32_t blake3_initial[WORDS]
    = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The words of a block in the order of their use in each round. */
static const uint8_t blake3_schedule[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
};

/* The first value of each chunk and parent, and a flag of all blocks: they depend on the key. */
typedef struct {
    uint32_t words[WORDS];
    uint32_t flags;
} blake3_mode;

/* Code for one kind of processor. */
typedef struct {
    size_t lanes;
    /* Hash whole chunks, one of each lane, whose numbers begin with *counter*, to *target*. */
    void (*hash_chunks)(const blake3_mode *mode, const uint8_t *const *inputs, uint32_t counter, uint8_t *target);
    /* Hash pairs of values, one of each lane, to *target*. */
    void (*hash_parents)(const blake3_mode *mode, const uint8_t *const *inputs, uint8_t *target);
} blake3_kernel;

#if defined(__x86_64__)
extern const blake3_kernel blake3_avx2, blake3_avx512;
#endif

#endif
