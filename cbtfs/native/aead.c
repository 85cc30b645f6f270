/* A thread keeps one context for each direction, with the key of its last pack. */
#include "aead.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "secret.h"

enum {
    NONCE_BYTES = 12,
    BOUND_BYTES = 96, /* additional data */
    FORMAT = 1,
    KIND_CHUNK = 1,
};

typedef struct {
    EVP_CIPHER_CTX *context;
    uint8_t key[AEAD_KEY_BYTES];
    bool has_key;
} direction;

typedef struct {
    direction seal, open;
} thread_state;

static pthread_key_t thread_key;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;

static void free_state(void *memory)
{
    thread_state *state = memory;
    EVP_CIPHER_CTX_free(state->seal.context);
    EVP_CIPHER_CTX_free(state->open.context);
    secret_free(state);
}

static void create_thread_key(void)
{
    pthread_key_create(&thread_key, free_state);
}

/* Return the contexts of this thread, or NULL. */
static thread_state *get_state(void)
{
    pthread_once(&thread_key_once, create_thread_key);
    thread_state *state = pthread_getspecific(thread_key);
    if (state != NULL)
        return state;
    state = secret_new(sizeof *state);
    if (state == NULL)
        return NULL;
    state->seal.context = EVP_CIPHER_CTX_new();
    state->open.context = EVP_CIPHER_CTX_new();
    if (state->seal.context == NULL || state->open.context == NULL
        || EVP_EncryptInit_ex(state->seal.context, EVP_aes_256_gcm(), NULL, NULL, NULL) != 1
        || EVP_DecryptInit_ex(state->open.context, EVP_aes_256_gcm(), NULL, NULL, NULL) != 1
        || pthread_setspecific(thread_key, state) != 0) {
        free_state(state);
        return NULL;
    }
    return state;
}

static void put_32(uint8_t *bytes, uint32_t value)
{
    bytes[0] = value, bytes[1] = value >> 8, bytes[2] = value >> 16, bytes[3] = value >> 24;
}

static void put_64(uint8_t *bytes, uint64_t value)
{
    put_32(bytes, (uint32_t)value);
    put_32(bytes + 4, (uint32_t)(value >> 32));
}

/* Write nonce and additional data of a piece. */
static void bind(const pack_key *key, const aead_frame *frame, uint32_t piece, uint8_t nonce[NONCE_BYTES],
                 uint8_t bound[BOUND_BYTES])
{
    put_64(nonce, frame->offset);
    put_32(nonce + 8, piece);
    memcpy(bound, "cbtfs", 6);
    bound[6] = FORMAT, bound[7] = 0;
    memcpy(bound + 8, key->repository, AEAD_ID_BYTES);
    memcpy(bound + 24, key->pack, AEAD_ID_BYTES);
    put_64(bound + 40, frame->offset);
    bound[48] = frame->kind, bound[49] = frame->level, bound[50] = frame->codec, bound[51] = 0;
    put_32(bound + 52, frame->plain);
    memcpy(bound + 56, frame->digest, DIGEST_BYTES);
    put_32(bound + 88, piece);
    put_32(bound + 92, frame->stored);
}

/* Start the operation of a piece: load the key, unless the context has it, and the nonce. */
static bool start(direction *direction, bool seals, const pack_key *key, const uint8_t *nonce)
{
    bool is_loaded = direction->has_key && memcmp(direction->key, key->key, AEAD_KEY_BYTES) == 0;
    const uint8_t *loaded = is_loaded ? NULL : key->key;
    direction->has_key = false;
    int result = seals ? EVP_EncryptInit_ex(direction->context, NULL, NULL, loaded, nonce)
                       : EVP_DecryptInit_ex(direction->context, NULL, NULL, loaded, nonce);
    if (result != 1)
        return false;
    if (!is_loaded)
        memcpy(direction->key, key->key, AEAD_KEY_BYTES);
    direction->has_key = true;
    return true;
}

bool aead_seal(const pack_key *key, const aead_frame *frame, uint32_t piece, const uint8_t *data, size_t length,
               uint8_t *target, uint8_t *tag)
{
    uint8_t nonce[NONCE_BYTES], bound[BOUND_BYTES];
    thread_state *state = get_state();
    int done;
    bind(key, frame, piece, nonce, bound);
    if (state == NULL || !start(&state->seal, true, key, nonce))
        return false;
    EVP_CIPHER_CTX *context = state->seal.context;
    return EVP_EncryptUpdate(context, NULL, &done, bound, BOUND_BYTES) == 1
        && EVP_EncryptUpdate(context, target, &done, data, (int)length) == 1
        && EVP_EncryptFinal_ex(context, target + length, &done) == 1
        && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, tag) == 1;
}

bool aead_open(const pack_key *key, const aead_frame *frame, uint32_t piece, const uint8_t *data, size_t length,
               const uint8_t *tag, uint8_t *target)
{
    uint8_t nonce[NONCE_BYTES], bound[BOUND_BYTES];
    thread_state *state = get_state();
    int done;
    bind(key, frame, piece, nonce, bound);
    if (state == NULL || !start(&state->open, false, key, nonce))
        return false;
    EVP_CIPHER_CTX *context = state->open.context;
    return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, (void *)tag) == 1
        && EVP_DecryptUpdate(context, NULL, &done, bound, BOUND_BYTES) == 1
        && EVP_DecryptUpdate(context, target, &done, data, (int)length) == 1
        && EVP_DecryptFinal_ex(context, target + length, &done) == 1;
}

/* Return the bytes that one tag of *frame* covers. */
static uint32_t piece_bytes(const aead_frame *frame)
{
    bool is_raw_chunk = frame->kind == KIND_CHUNK && frame->codec == CODEC_STORED;
    return is_raw_chunk ? PIECE_BYTES : MAX_CHUNK_BYTES;
}

uint32_t aead_tags_bytes(const aead_frame *frame)
{
    uint32_t size = piece_bytes(frame), count = (frame->stored + size - 1) / size;
    return (count > 0 ? count : 1) * AEAD_TAG_BYTES;
}

bool aead_seal_payload(const pack_key *key, const aead_frame *frame, const uint8_t *payload, uint8_t *tags,
                       uint8_t *target)
{
    uint32_t size = piece_bytes(frame), piece = 0, at = 0;
    do {
        uint32_t count = frame->stored - at < size ? frame->stored - at : size;
        if (!aead_seal(key, frame, piece, payload + at, count, target + at, tags + piece * AEAD_TAG_BYTES))
            return false;
        at += count;
        piece++;
    } while (at < frame->stored);
    return true;
}

bool aead_open_payload(const pack_key *key, const aead_frame *frame, uint32_t start, uint32_t length,
                       const uint8_t *tags, uint8_t *data)
{
    uint32_t size = piece_bytes(frame), piece = start / size, at = 0;
    do {
        uint32_t count = length - at < size ? length - at : size;
        if (!aead_open(key, frame, piece, data + at, count, tags + piece * AEAD_TAG_BYTES, data + at))
            return false;
        at += count;
        piece++;
    } while (at < length);
    return true;
}
