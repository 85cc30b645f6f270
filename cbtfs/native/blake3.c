/* Trees of BLAKE3, and blocks that are hashed alone. blake3_lanes.h explains the terms. */
#include "blake3.h"

#include <string.h>

#include "blake3_lanes.h"

#if defined(__x86_64__)

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
    memcpy(state + 8, blake3_initial, 4 * sizeof *blake3_initial);
    state[12] = counter, state[13] = 0, state[14] = length, state[15] = flags;
    for (int round = 0; round < ROUNDS; round++) {
        const uint8_t *order = blake3_schedule[round];
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
static void hash_chunk(const blake3_mode *mode, const uint8_t *data, size_t length, uint32_t counter, uint32_t flags,
                       uint8_t *value)
{
    uint32_t words[WORDS];
    memcpy(words, mode->words, sizeof words);
    uint32_t start = CHUNK_START;
    for (; length > BLOCK_BYTES; data += BLOCK_BYTES, length -= BLOCK_BYTES, start = 0)
        compress(words, data, BLOCK_BYTES, counter, start | mode->flags);
    compress(words, data, length, counter, start | CHUNK_END | flags | mode->flags);
    memcpy(value, words, VALUE_BYTES);
}

/* Trees */

/* Return the code for this processor, or NULL; *lanes* names one, 0 means the fastest. */
static const blake3_kernel *find_kernel(size_t lanes)
{
    if ((lanes == 0 || lanes == blake3_avx512.lanes) && __builtin_cpu_supports("avx512f"))
        return &blake3_avx512;
    if ((lanes == 0 || lanes == blake3_avx2.lanes) && __builtin_cpu_supports("avx2"))
        return &blake3_avx2;
    return NULL;
}

/* The prefix and the data as one input: its first chunk is a copy. */
typedef struct {
    uint8_t first[CHUNK_BYTES];
    const uint8_t *data; /* without the prefix */
    const blake3_kernel *kernel;
    blake3_mode mode;
} input;

static const uint8_t *chunk_of(const input *input, size_t number)
{
    return number == 0 ? input->first : input->data + number * CHUNK_BYTES - PREFIX_BYTES;
}

/* Hash *count* values, at most two for each lane, in pairs to *target*, which has space for one for each lane. A last
 * value without a partner stays. Return the number of values in *target*. */
static size_t hash_pairs(const input *input, const uint8_t *children, size_t count, uint8_t *target)
{
    const blake3_kernel *kernel = input->kernel;
    const uint8_t *inputs[MAX_LANES];
    size_t pairs = count / 2;
    for (size_t lane = 0; lane < kernel->lanes; lane++)
        inputs[lane] = children + (lane < pairs ? lane : 0) * 2 * VALUE_BYTES;
    kernel->hash_parents(&input->mode, inputs, target);
    if (count % 2 != 0)
        memcpy(target + pairs * VALUE_BYTES, children + (count - 1) * VALUE_BYTES, VALUE_BYTES);
    return pairs + count % 2;
}

/* Hash *length* bytes from chunk *counter* on, with each larger subtree reduced to one value for each lane. Return the
 * number of values in *target*, which has space for one for each lane. */
static size_t hash_subtree(const input *input, size_t counter, size_t length, uint8_t *target)
{
    size_t lanes = input->kernel->lanes;
    if (length <= lanes * CHUNK_BYTES) {
        size_t whole = length / CHUNK_BYTES, rest = length % CHUNK_BYTES;
        const uint8_t *inputs[MAX_LANES];
        for (size_t lane = 0; lane < lanes; lane++)
            inputs[lane] = chunk_of(input, counter + (lane < whole ? lane : 0));
        if (whole > 0)
            input->kernel->hash_chunks(&input->mode, inputs, counter, target);
        if (rest > 0)
            hash_chunk(&input->mode, chunk_of(input, counter + whole), rest, counter + whole, 0,
                       target + whole * VALUE_BYTES);
        return whole + (rest > 0);
    }
    size_t left = lanes * CHUNK_BYTES;
    while (2 * left < length)
        left *= 2;
    uint8_t values[2 * MAX_LANES * VALUE_BYTES];
    size_t count = hash_subtree(input, counter, left, values);
    count += hash_subtree(input, counter + left / CHUNK_BYTES, length - left, values + count * VALUE_BYTES);
    return hash_pairs(input, values, count, target);
}

bool blake3_is_available(size_t lanes)
{
    return find_kernel(lanes) != NULL;
}

void blake3_digest_in_lanes(size_t lanes, const uint8_t *key, const uint8_t prefix[PREFIX_BYTES], const uint8_t *data,
                            size_t length, uint8_t digest[DIGEST_BYTES])
{
    input input = {.data = data, .kernel = find_kernel(lanes), .mode = {.flags = key == NULL ? 0 : KEYED}};
    memcpy(input.mode.words, key == NULL ? (const void *)blake3_initial : key, sizeof input.mode.words);
    size_t total = PREFIX_BYTES + length;
    memcpy(input.first, prefix, PREFIX_BYTES);
    memcpy(input.first + PREFIX_BYTES, data, total < CHUNK_BYTES ? length : CHUNK_BYTES - PREFIX_BYTES);
    if (total <= CHUNK_BYTES) {
        hash_chunk(&input.mode, input.first, total, 0, ROOT, digest);
        return;
    }
    uint8_t values[MAX_LANES * VALUE_BYTES], pairs[MAX_LANES * VALUE_BYTES];
    size_t count = hash_subtree(&input, 0, total, values);
    while (count > 2) {
        count = hash_pairs(&input, values, count, pairs);
        memcpy(values, pairs, count * VALUE_BYTES);
    }
    uint32_t root[WORDS];
    memcpy(root, input.mode.words, sizeof root);
    compress(root, values, BLOCK_BYTES, 0, PARENT | ROOT | input.mode.flags);
    memcpy(digest, root, DIGEST_BYTES);
}

#else

bool blake3_is_available(size_t lanes)
{
    (void)lanes;
    return false;
}

void blake3_digest_in_lanes(size_t lanes, const uint8_t *key, const uint8_t *prefix, const uint8_t *data, size_t length,
                            uint8_t *digest)
{
    (void)lanes, (void)key, (void)prefix, (void)data, (void)length;
    memset(digest, 0, DIGEST_BYTES); /* never called */
}

#endif

void blake3_digest(const uint8_t *key, const uint8_t prefix[PREFIX_BYTES], const uint8_t *data, size_t length,
                   uint8_t digest[DIGEST_BYTES])
{
    blake3_digest_in_lanes(0, key, prefix, data, length, digest);
}
