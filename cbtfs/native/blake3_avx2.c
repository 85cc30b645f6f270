/* Eight lanes in the registers of AVX2. */
#include "blake3_lanes.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE __attribute__((target("avx2"), always_inline)) static inline
#define UNROLLED BLAKE3_UNROLLED

enum { LANES = 8 };

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
AVX2_INLINE void compress_lanes(__m256i values[WORDS], const uint8_t *const *inputs, size_t offset,
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
        state[word + 8] = _mm256_set1_epi32((int)blake3_initial[word]);
    state[12] = counters;
    state[13] = _mm256_setzero_si256();
    state[14] = _mm256_set1_epi32(BLOCK_BYTES);
    state[15] = _mm256_set1_epi32((int)flags);
    mix_round(state, words, blake3_schedule[0]);
    mix_round(state, words, blake3_schedule[1]);
    mix_round(state, words, blake3_schedule[2]);
    mix_round(state, words, blake3_schedule[3]);
    mix_round(state, words, blake3_schedule[4]);
    mix_round(state, words, blake3_schedule[5]);
    mix_round(state, words, blake3_schedule[6]);
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm256_xor_si256(state[word], state[word + 8]);
}

AVX2_INLINE void start_lanes(const blake3_mode *mode, __m256i values[WORDS])
{
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm256_set1_epi32((int)mode->words[word]);
}

AVX2_INLINE void store_lanes(__m256i values[WORDS], uint8_t *target)
{
    transpose(values);
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        _mm256_storeu_si256((__m256i *)(target + lane * VALUE_BYTES), values[lane]);
}

/* Hash eight whole chunks, whose numbers begin with *counter*, to *target*. */
AVX2 static void hash_chunks(const blake3_mode *mode, const uint8_t *const *inputs, uint32_t counter, uint8_t *target)
{
    __m256i values[WORDS];
    __m256i counters = _mm256_add_epi32(_mm256_set1_epi32((int)counter), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    start_lanes(mode, values);
    for (size_t block = 0; block < CHUNK_BLOCKS; block++)
        compress_lanes(values, inputs, block * BLOCK_BYTES, counters,
                       (block == 0 ? CHUNK_START : 0) | (block == CHUNK_BLOCKS - 1 ? CHUNK_END : 0) | mode->flags);
    store_lanes(values, target);
}

AVX2 static void hash_parents(const blake3_mode *mode, const uint8_t *const *inputs, uint8_t *target)
{
    __m256i values[WORDS];
    start_lanes(mode, values);
    compress_lanes(values, inputs, 0, _mm256_setzero_si256(), PARENT | mode->flags);
    store_lanes(values, target);
}

const blake3_kernel blake3_avx2 = {LANES, hash_chunks, hash_parents};

#endif
