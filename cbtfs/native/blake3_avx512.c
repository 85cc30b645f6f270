/* Sixteen lanes in the registers of AVX-512. */
#include "blake3_lanes.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f")))
#define AVX512_INLINE __attribute__((target("avx512f"), always_inline)) static inline
#define UNROLLED BLAKE3_UNROLLED

enum { LANES = 16 };

/* Exchange rows and columns of 16 x 16 words. */
AVX512_INLINE void transpose(__m512i rows[LANES])
{
    __m512i pairs[LANES], fours[LANES];
    UNROLLED
    for (int row = 0; row < LANES; row += 2) {
        pairs[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
    }
    UNROLLED
    for (int row = 0; row < LANES; row += 4) {
        fours[row] = _mm512_unpacklo_epi64(pairs[row], pairs[row + 2]);
        fours[row + 1] = _mm512_unpackhi_epi64(pairs[row], pairs[row + 2]);
        fours[row + 2] = _mm512_unpacklo_epi64(pairs[row + 1], pairs[row + 3]);
        fours[row + 3] = _mm512_unpackhi_epi64(pairs[row + 1], pairs[row + 3]);
    }
    UNROLLED
    for (int row = 0; row < 4; row++) { /* quarters of registers are words row, row + 4, row + 8 and row + 12 */
        __m512i even_left = _mm512_shuffle_i32x4(fours[row], fours[row + 4], 0x88);
        __m512i odd_left = _mm512_shuffle_i32x4(fours[row], fours[row + 4], 0xdd);
        __m512i even_right = _mm512_shuffle_i32x4(fours[row + 8], fours[row + 12], 0x88);
        __m512i odd_right = _mm512_shuffle_i32x4(fours[row + 8], fours[row + 12], 0xdd);
        rows[row] = _mm512_shuffle_i32x4(even_left, even_right, 0x88);
        rows[row + 4] = _mm512_shuffle_i32x4(odd_left, odd_right, 0x88);
        rows[row + 8] = _mm512_shuffle_i32x4(even_left, even_right, 0xdd);
        rows[row + 12] = _mm512_shuffle_i32x4(odd_left, odd_right, 0xdd);
    }
}

AVX512_INLINE void mix_lanes(__m512i *state, int a, int b, int c, int d, __m512i first, __m512i second)
{
    state[a] = _mm512_add_epi32(_mm512_add_epi32(state[a], first), state[b]);
    state[d] = _mm512_ror_epi32(_mm512_xor_si512(state[d], state[a]), 16);
    state[c] = _mm512_add_epi32(state[c], state[d]);
    state[b] = _mm512_ror_epi32(_mm512_xor_si512(state[b], state[c]), 12);
    state[a] = _mm512_add_epi32(_mm512_add_epi32(state[a], second), state[b]);
    state[d] = _mm512_ror_epi32(_mm512_xor_si512(state[d], state[a]), 8);
    state[c] = _mm512_add_epi32(state[c], state[d]);
    state[b] = _mm512_ror_epi32(_mm512_xor_si512(state[b], state[c]), 7);
}

AVX512_INLINE void mix_round(__m512i state[16], const __m512i words[16], const uint8_t *order)
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
AVX512_INLINE void compress_lanes(__m512i values[WORDS], const uint8_t *const *inputs, size_t offset,
                                __m512i counters, uint32_t flags)
{
    __m512i words[16], state[16];
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        words[lane] = _mm512_loadu_si512(inputs[lane] + offset);
    transpose(words);
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        state[word] = values[word];
    UNROLLED
    for (int word = 0; word < 4; word++)
        state[word + 8] = _mm512_set1_epi32((int)blake3_initial[word]);
    state[12] = counters;
    state[13] = _mm512_setzero_si512();
    state[14] = _mm512_set1_epi32(BLOCK_BYTES);
    state[15] = _mm512_set1_epi32((int)flags);
    mix_round(state, words, blake3_schedule[0]);
    mix_round(state, words, blake3_schedule[1]);
    mix_round(state, words, blake3_schedule[2]);
    mix_round(state, words, blake3_schedule[3]);
    mix_round(state, words, blake3_schedule[4]);
    mix_round(state, words, blake3_schedule[5]);
    mix_round(state, words, blake3_schedule[6]);
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm512_xor_si512(state[word], state[word + 8]);
}

AVX512_INLINE void start_lanes(const blake3_mode *mode, __m512i values[WORDS])
{
    UNROLLED
    for (int word = 0; word < WORDS; word++)
        values[word] = _mm512_set1_epi32((int)mode->words[word]);
}

AVX512_INLINE void store_lanes(const __m512i values[WORDS], uint8_t *target)
{
    __m512i rows[LANES];
    UNROLLED
    for (int row = 0; row < LANES; row++)
        rows[row] = values[row % WORDS]; /* the second half of each row is not stored */
    transpose(rows);
    UNROLLED
    for (int lane = 0; lane < LANES; lane++)
        _mm256_storeu_si256((__m256i *)(target + lane * VALUE_BYTES), _mm512_castsi512_si256(rows[lane]));
}

AVX512 static void hash_chunks(const blake3_mode *mode, const uint8_t *const *inputs, uint32_t counter, uint8_t *target)
{
    __m512i values[WORDS];
    __m512i counters = _mm512_add_epi32(_mm512_set1_epi32((int)counter), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    start_lanes(mode, values);
    for (size_t block = 0; block < CHUNK_BLOCKS; block++)
        compress_lanes(values, inputs, block * BLOCK_BYTES, counters,
                       (block == 0 ? CHUNK_START : 0) | (block == CHUNK_BLOCKS - 1 ? CHUNK_END : 0) | mode->flags);
    store_lanes(values, target);
}

AVX512 static void hash_parents(const blake3_mode *mode, const uint8_t *const *inputs, uint8_t *target)
{
    __m512i values[WORDS];
    start_lanes(mode, values);
    compress_lanes(values, inputs, 0, _mm512_setzero_si512(), PARENT | mode->flags);
    store_lanes(values, target);
}

const blake3_kernel blake3_avx512 = {LANES, hash_chunks, hash_parents};

#endif
