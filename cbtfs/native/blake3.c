/* Eight chunks, or eight parents, are hashed at once: one in each 32-bit lane of the registers. In this file a chunk
 * is one of BLAKE3, 1 KiB of the input, and a value is a chaining value, the hash of a chunk or a parent. */
#include "blake3.h"

#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE __attribute__((target("avx2"), always_inline)) static inline
#define UNROLLED _Pragma("GCC unroll 16") /* values in arrays then stay in registers */

enum {
    BLOCK_BYTES = 64,
    CHUNK_BYTES = 1024,
    CHUNK_BLOCKS = CHUNK_BYTES / BLOCK_BYTES,
    VALUE_BYTES = 32,
    WORDS = 8, /* of a value */
    ROUNDS = 7,
    LANES = 8,
    CHUNK_START = 1,
    CHUNK_END = 2,
    PARENT = 4,
    ROOT = 8,
};

static const uint32_t initial[WORDS]
    = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The words of a block in the order of their use in each round. */
static const uint8_t schedule[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
};

/* One block at a time */

static uint32_t rotated(uint32_t word, int bits)
{
    return word >> bits | word << (32 - bits);
}

static void mix(uint32_t *state, int a, int b, int c, int d, uint32_t first, uint32_t second)
{
    state[a] += state[b] + first;
    state[d] = rotated(state[d] ^ state[a], 16);
    state[c] += state[d];
    state[b] = rotated(state[b] ^ state[c], 12);
    state[a] += state[b] + second;
    state[d] = rotated(state[d] ^ state[a], 8);
    state[c] += state[d];
    state[b] = rotated(state[b] ^ state[c], 7);
}

/* Add a block of *length* bytes, at most 64, to *value*. */
static void compress(uint32_t value[WORDS], const uint8_t *data, uint32_t length, uint32_t counter, uint32_t flags)
{
    uint32_t words[16] = {0}, state[16];
    memcpy(words, data, length);
    memcpy(state, value, VALUE_BYTES);
    memcpy(state + 8, initial, 4 * sizeof *initial);
    state[12] = counter, state[13] = 0, state[14] = length, state[15] = flags;
    for (int round = 0; round < ROUNDS; round++) {
        const uint8_t *order = schedule[round];
        for (int column = 0; column < 4; column++)
            mix(state, column, 4 + column, 8 + column, 12 + column, words[order[2 * column]],
                words[order[2 * column + 1]]);
        for (int column = 0; column < 4; column++)
            mix(state, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4,
                words[order[8 + 2 * column]], words[order[9 + 2 * column]]);
    }
    for (int word = 0; word < WORDS; word++)
        value[word] = state[word] ^ state[word + 8];
}

/* Hash a chunk of *length* bytes: the only chunk, with ROOT, or the last one. */
static void hash_chunk(const uint8_t *data, size_t length, uint32_t counter, uint32_t flags, uint8_t *value)
{
    uint32_t words[WORDS];
    memcpy(words, initial, sizeof words);
    uint32_t start = CHUNK_START;
    for (; length > BLOCK_BYTES; data += BLOCK_BYTES, length -= BLOCK_BYTES, start = 0)
        compress(words, data, BLOCK_BYTES, counter, start);
    compress(words, data, length, counter, start | CHUNK_END | flags);
    memcpy(value, words, VALUE_BYTES);
}

/* Eight blocks at a time */

/* Exchange rows and columns of 8 x 8 words. */
AVX2_INLINE void transpose(__m256i rows[LANES])
{
    __m256i pairs[LANES], fours[LANES];
    UNROLLED
    for (int row = 0; row < LANES; row += 2) {
        pairs[row] = _mm256_unpacklo_epi32(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm256_unpackhi_epi32(rows[row], rows[row + 1]);
    }
    UNROLLED
    for (int row = 0; row < LANES; row += 4) {
        fours[row] = _mm256_unpacklo_epi64(pairs[row], pairs[row + 2]);
        fours[row + 1] = _mm256_unpackhi_epi64(pairs[row], pairs[row + 2]);
        fours[row + 2] = _mm256_unpacklo_epi64(pairs[row + 1], pairs[row + 3]);
        fours[row + 3] = _mm256_unpackhi_epi64(pairs[row + 1], pairs[row + 3]);
    }
    UNROLLED
    for (int row = 0; row < 4; row++) {
        rows[row] = _mm256_permute2x128_si256(fours[row], fours[row + 4], 0x20);
        rows[row + 4] = _mm256_permute2x128_si256(fours[row], fours[row + 4], 0x31);
    }
}

AVX2_INLINE __m256i rotated_by_bytes(__m256i words, __m256i order)
{
    return _mm256_shuffle_epi8(words, order);
}

AVX2_INLINE __m256i rotated_lanes(__m256i words, int bits)
{
    return _mm256_or_si256(_mm256_srli_epi32(words, bits), _mm256_slli_epi32(words, 32 - bits));
}

AVX2_INLINE void mix_lanes(__m256i *state, int a, int b, int c, int d, __m256i first, __m256i second)
{
    const __m256i by_16 = _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2, 13, 12, 15, 14, 9, 8,
                                          11, 10, 5, 4, 7, 6, 1, 0, 3, 2);
    const __m256i by_8 = _mm256_set_epi8(12, 15, 14, 13, 8, 11, 10, 9, 4, 7, 6, 5, 0, 3, 2, 1, 12, 15, 14, 13, 8, 11,
                                         10, 9, 4, 7, 6, 5, 0, 3, 2, 1);
    state[a] = _mm256_add_epi32(_mm256_add_epi32(state[a], first), state[b]);
    state[d] = rotated_by_bytes(_mm256_xor_si256(state[d], state[a]), by_16);
    state[c] = _mm256_add_epi32(state[c], state[d]);
    state[b] = rotated_lanes(_mm256_xor_si256(state[b], state[c]), 12);
    state[a] = _mm256_add_epi32(_mm256_add_epi32(state[a], second), state[b]);
    state[d] = rotated_by_bytes(_mm256_xor_si256(state[d], state[a]), by_8);
    state[c] = _mm256_add_epi32(state[c], state[d]);
    state[b] = rotated_lanes(_mm256_xor_si256(state[b], state[c]), 7);
}

AVX2_INLINE void mix_round(__m256i state[16], const __m256i words[16], const uint8_t *order)
{
    mix_lanes(state, 0, 4, 8, 12, words[order[0]], words[order[1]]);
    mix_lanes(state, 1, 5, 9, 13, words[order[2]], words[order[3]]);
    mix_lanes(state, 2, 6, 10, 14, words[order[4]], words[order[5]]);
    mix_lanes(state, 3, 7, 11, 15, words[order[6]], words[order[7]]);
    mix_lanes(state, 0, 5, 10, 15, words[order[8]], words[order[9]]);
    mix_lanes(state, 1, 6, 11, 12, words[order[10]], words[order[11]]);
    mix_lanes(state, 2, 7, 8, 13, words[order[12]], words[order[13]]);
    mix_lanes(state, 3, 4, 9, 14, words[order[14]], words[order[15]]);
}

/* Add one block of each lane to *values*. */
AVX2_INLINE void compress_lanes(__m256i values[WORDS], const uint8_t *const inputs[LANES], size_t offset,
                                __m256i counters, uint32_t flags)
{
    __m256i words[16], state[16];
    UNROLLED
    for (int lane = 0; lane < LANES; lane++) {
        words[lane] = _mm256_loadu_si256((const __m256i *)(inputs[lane] + offset));
        words[lane + 8] = _mm256_loadu_si256((const __m256i *)(inputs[lane] + offset + 32));
    }
    transpose(words);
    transpose(words + 8);
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        state[word] = values[word];
    UNROLLED
    for (int word = 0; word < 4; word++)
        state[word + 8] = _mm256_set1_epi32((int)initial[word]);
    state[12] = counters;
    state[13] = _mm256_setzero_si256();
    state[14] = _mm256_set1_epi32(BLOCK_BYTES);
    state[15] = _mm256_set1_epi32((int)flags);
    mix_round(state, words, schedule[0]);
    mix_round(state, words, schedule[1]);
    mix_round(state, words, schedule[2]);
    mix_round(state, words, schedule[3]);
    mix_round(state, words, schedule[4]);
    mix_round(state, words, schedule[5]);
    mix_round(state, words, schedule[6]);
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm256_xor_si256(state[word], state[word + 8]);
}

AVX2_INLINE void start_lanes(__m256i values[WORDS])
{
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm256_set1_epi32((int)initial[word]);
}

AVX2_INLINE void store_lanes(__m256i values[WORDS], uint8_t *target)
{
    transpose(values);
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        _mm256_storeu_si256((__m256i *)(target + lane * VALUE_BYTES), values[lane]);
}

/* Hash eight whole chunks, whose numbers begin with *counter*, to *target*. */
AVX2 static void hash_chunks(const uint8_t *const inputs[LANES], uint32_t counter, uint8_t *target)
{
    __m256i values[WORDS];
    __m256i counters = _mm256_add_epi32(_mm256_set1_epi32((int)counter), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    start_lanes(values);
    for (size_t block = 0; block < CHUNK_BLOCKS; block++)
        compress_lanes(values, inputs, block * BLOCK_BYTES, counters,
                       (block == 0 ? CHUNK_START : 0) | (block == CHUNK_BLOCKS - 1 ? CHUNK_END : 0));
    store_lanes(values, target);
}

/* Hash *count* values, at most 16, in pairs to *target*, which has space for 8. A last value without a partner stays.
 * Return the number of values in *target*. */
AVX2 static size_t hash_pairs(const uint8_t *children, size_t count, uint8_t *target)
{
    __m256i values[WORDS];
    const uint8_t *inputs[LANES];
    size_t pairs = count / 2;
    for (size_t lane = 0; lane < LANES; lane++)
        inputs[lane] = children + (lane < pairs ? lane : 0) * 2 * VALUE_BYTES;
    start_lanes(values);
    compress_lanes(values, inputs, 0, _mm256_setzero_si256(), PARENT);
    store_lanes(values, target);
    if (count % 2 != 0)
        memcpy(target + pairs * VALUE_BYTES, children + (count - 1) * VALUE_BYTES, VALUE_BYTES);
    return pairs + count % 2;
}

/* Trees */

/* The prefix and the data as one input: its first chunk is a copy. */
typedef struct {
    uint8_t first[CHUNK_BYTES];
    const uint8_t *data; /* without the prefix */
} input;

static const uint8_t *chunk_of(const input *input, size_t number)
{
    return number == 0 ? input->first : input->data + number * CHUNK_BYTES - PREFIX_BYTES;
}

/* Hash *length* bytes from chunk *counter* on, with each subtree of eight chunks or more reduced to eight values. Return
 * the number of values in *target*, which has space for 8. */
static size_t hash_subtree(const input *input, size_t counter, size_t length, uint8_t *target)
{
    if (length <= LANES * CHUNK_BYTES) {
        size_t whole = length / CHUNK_BYTES, rest = length % CHUNK_BYTES;
        const uint8_t *inputs[LANES];
        for (size_t lane = 0; lane < LANES; lane++)
            inputs[lane] = chunk_of(input, counter + (lane < whole ? lane : 0));
        if (whole > 0)
            hash_chunks(inputs, counter, target);
        if (rest > 0)
            hash_chunk(chunk_of(input, counter + whole), rest, counter + whole, 0, target + whole * VALUE_BYTES);
        return whole + (rest > 0);
    }
    size_t left = LANES * CHUNK_BYTES;
    while (2 * left < length)
        left *= 2;
    uint8_t values[2 * LANES * VALUE_BYTES];
    size_t count = hash_subtree(input, counter, left, values);
    count += hash_subtree(input, counter + left / CHUNK_BYTES, length - left, values + count * VALUE_BYTES);
    return hash_pairs(values, count, target);
}

bool blake3_is_available(void)
{
    return __builtin_cpu_supports("avx2");
}

void blake3_digest(const uint8_t prefix[PREFIX_BYTES], const uint8_t *data, size_t length, uint8_t digest[DIGEST_BYTES])
{
    input input = {.data = data};
    size_t total = PREFIX_BYTES + length;
    memcpy(input.first, prefix, PREFIX_BYTES);
    memcpy(input.first + PREFIX_BYTES, data, total < CHUNK_BYTES ? length : CHUNK_BYTES - PREFIX_BYTES);
    if (total <= CHUNK_BYTES) {
        hash_chunk(input.first, total, 0, ROOT, digest);
        return;
    }
    uint8_t values[LANES * VALUE_BYTES], pairs[LANES * VALUE_BYTES];
    size_t count = hash_subtree(&input, 0, total, values);
    while (count > 2) {
        count = hash_pairs(values, count, pairs);
        memcpy(values, pairs, count * VALUE_BYTES);
    }
    uint32_t root[WORDS];
    memcpy(root, initial, sizeof root);
    compress(root, values, BLOCK_BYTES, 0, PARENT | ROOT);
    memcpy(digest, root, DIGEST_BYTES);
}

#else

bool blake3_is_available(void)
{
    return false;
}

void blake3_digest(const uint8_t *prefix, const uint8_t *data, size_t length, uint8_t *digest)
{
    (void)prefix, (void)data, (void)length;
    memset(digest, 0, DIGEST_BYTES); /* never called */
}

#endif
