/* Python functions that encrypt and decrypt whole frames. _core.pyi declares their signatures. */
#include "types.h"

#include <string.h>

#include "aead.h"

enum {
    HEAD_BYTES = 96,
    SEALED_HEAD_BYTES = HEAD_BYTES + AEAD_TAG_BYTES,
    ALIGNMENT = 64,
    KEYS_BYTES = 2 * AEAD_ID_BYTES + 2 * AEAD_KEY_BYTES,
    KIND_CHUNK = 1,
};

static const uint32_t HEADER_PIECE = UINT32_MAX; /* the number of a frame's header in its nonce */

typedef struct {
    pack_key meta, data;
} pack_keys;

static uint32_t get_32(const uint8_t *bytes)
{
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* Read *keys* from repository, pack, key of metadata and key of chunks. */
static void load_keys(const uint8_t *bytes, pack_keys *keys)
{
    memcpy(&keys->meta, bytes, 2 * AEAD_ID_BYTES + AEAD_KEY_BYTES);
    memcpy(&keys->data, bytes, 2 * AEAD_ID_BYTES);
    memcpy(keys->data.key, bytes + 2 * AEAD_ID_BYTES + AEAD_KEY_BYTES, AEAD_KEY_BYTES);
}

/* Return the frame that the plain header *head* describes. */
static aead_frame described(const uint8_t *head, uint64_t offset)
{
    return (aead_frame){offset, head[10], head[11], head[12], get_32(head + 20), get_32(head + 16), head + 52};
}

static const pack_key *key_of(const pack_keys *keys, const aead_frame *frame)
{
    return frame->kind == KIND_CHUNK ? &keys->data : &keys->meta;
}

/* Return the binding of the header of the frame at *offset*: every member but the offset is zero. */
static aead_frame header_binding(uint64_t offset)
{
    static const uint8_t no_digest[DIGEST_BYTES];
    return (aead_frame){.offset = offset, .digest = no_digest};
}

static size_t frame_bytes(const aead_frame *frame)
{
    size_t bytes = SEALED_HEAD_BYTES + aead_tags_bytes(frame) + frame->stored;
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool are_sizes_valid(const Py_buffer *keys, const Py_buffer *head)
{
    return keys->len == KEYS_BYTES && head->len == HEAD_BYTES
        && get_32((const uint8_t *)head->buf + 16) <= MAX_CHUNK_BYTES;
}

static PyObject *seal_frame(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer keys_buffer, head, payload;
    unsigned long long offset;
    if (!PyArg_ParseTuple(args, "y*Ky*y*", &keys_buffer, &offset, &head, &payload))
        return NULL;
    PyObject *result = NULL;
    if (!are_sizes_valid(&keys_buffer, &head) || payload.len != get_32((uint8_t *)head.buf + 16)) {
        PyErr_SetString(PyExc_ValueError, "keys, header or payload have another length");
    } else {
        pack_keys keys;
        aead_frame frame = described(head.buf, offset), binding = header_binding(offset);
        size_t total = frame_bytes(&frame);
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
        if (result != NULL) {
            bool is_sealed;
            uint8_t *at = (uint8_t *)PyBytes_AS_STRING(result), *tags = at + SEALED_HEAD_BYTES;
            load_keys(keys_buffer.buf, &keys);
            Py_BEGIN_ALLOW_THREADS
            uint8_t *target = tags + aead_tags_bytes(&frame);
            is_sealed = aead_seal(&keys.meta, &binding, HEADER_PIECE, head.buf, HEAD_BYTES, at, at + HEAD_BYTES)
                && aead_seal_payload(key_of(&keys, &frame), &frame, payload.buf, tags, target);
            memset(target + frame.stored, 0, (size_t)(at + total - target - frame.stored));
            Py_END_ALLOW_THREADS
            if (!is_sealed) {
                Py_CLEAR(result);
                PyErr_SetString(PyExc_RuntimeError, "libcrypto failed to encrypt");
            }
        }
    }
    PyBuffer_Release(&keys_buffer);
    PyBuffer_Release(&head);
    PyBuffer_Release(&payload);
    return result;
}

static PyObject *open_header(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer keys_buffer, data;
    unsigned long long offset;
    if (!PyArg_ParseTuple(args, "y*Ky*", &keys_buffer, &offset, &data))
        return NULL;
    PyObject *result = NULL;
    if (keys_buffer.len == KEYS_BYTES && data.len >= SEALED_HEAD_BYTES) {
        pack_keys keys;
        aead_frame binding = header_binding(offset);
        uint8_t head[HEAD_BYTES];
        load_keys(keys_buffer.buf, &keys);
        if (aead_open(&keys.meta, &binding, HEADER_PIECE, data.buf, HEAD_BYTES, (uint8_t *)data.buf + HEAD_BYTES, head))
            result = PyBytes_FromStringAndSize((char *)head, HEAD_BYTES);
    }
    PyBuffer_Release(&keys_buffer);
    PyBuffer_Release(&data);
    return result == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : result;
}

static PyObject *open_payload(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer keys_buffer, head, data;
    unsigned long long offset;
    if (!PyArg_ParseTuple(args, "y*Ky*y*", &keys_buffer, &offset, &head, &data))
        return NULL;
    PyObject *result = NULL;
    if (!are_sizes_valid(&keys_buffer, &head)) {
        PyErr_SetString(PyExc_ValueError, "keys or header have another length");
    } else {
        pack_keys keys;
        aead_frame frame = described(head.buf, offset);
        uint32_t tags = aead_tags_bytes(&frame);
        load_keys(keys_buffer.buf, &keys);
        if ((size_t)data.len >= (size_t)tags + frame.stored)
            result = PyBytes_FromStringAndSize(NULL, frame.stored);
        if (result != NULL) {
            bool is_intact;
            uint8_t *target = (uint8_t *)PyBytes_AS_STRING(result); /* private until it is returned */
            Py_BEGIN_ALLOW_THREADS
            memcpy(target, (uint8_t *)data.buf + tags, frame.stored);
            is_intact = aead_open_payload(key_of(&keys, &frame), &frame, 0, frame.stored, data.buf, target);
            Py_END_ALLOW_THREADS
            if (!is_intact)
                Py_CLEAR(result);
        }
    }
    PyBuffer_Release(&keys_buffer);
    PyBuffer_Release(&head);
    PyBuffer_Release(&data);
    return result == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : result;
}

PyMethodDef sealing_functions[] = {
    {"seal_frame", seal_frame, METH_VARARGS, "Return the encrypted frame of a plain header and payload."},
    {"open_header", open_header, METH_VARARGS, "Return the plain header of an encrypted frame, or None."},
    {"open_payload", open_payload, METH_VARARGS, "Return the plain payload of an encrypted frame, or None."},
    {NULL, NULL, 0, NULL},
};
