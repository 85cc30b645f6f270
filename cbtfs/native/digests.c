/* Python functions on digests. _core.pyi declares their signatures. */
#include "types.h"

#include <stdlib.h>

#include "blake3.h"

enum { UNLOCKED_BYTES = 8 << 10 }; /* to release Python's lock takes longer than to hash less */

static PyObject *has_blake3(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned int lanes = 0;
    if (!PyArg_ParseTuple(args, "|I", &lanes))
        return NULL;
    return PyBool_FromLong(blake3_is_available(lanes));
}

/* Store the key of digests at *key*, NULL for None. Return false with an exception if it is neither. */
bool digest_key(PyObject *object, uint8_t **key)
{
    char *bytes = NULL;
    Py_ssize_t length = DIGEST_BYTES;
    if (object != NULL && object != Py_None && PyBytes_AsStringAndSize(object, &bytes, &length) < 0)
        return false;
    if (length != DIGEST_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a key has 32 bytes");
        return false;
    }
    *key = (uint8_t *)bytes;
    return true;
}

static PyObject *matching_blocks(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data, digests;
    unsigned int block_size;
    PyObject *result = NULL, *key_object = Py_None;
    uint8_t *padded = NULL, *key = NULL;
    if (!PyArg_ParseTuple(args, "y*Iy*|O", &data, &block_size, &digests, &key_object))
        return NULL;
    if (!digest_key(key_object, &key)) {
        PyBuffer_Release(&data);
        PyBuffer_Release(&digests);
        return NULL;
    }
    size_t count = block_size == 0 ? 0 : ((size_t)data.len + block_size - 1) / block_size;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES || (size_t)digests.len != count * DIGEST_BYTES
        || !blake3_is_available(0))
        PyErr_SetString(PyExc_ValueError, "invalid block size or number of digests");
    else if ((padded = malloc(block_size)) == NULL || (result = PyBytes_FromStringAndSize(NULL, count)) == NULL)
        PyErr_NoMemory();
    else {
        char *flags = PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        for (size_t block = 0, start = 0; block < count; block++, start += block_size) {
            size_t rest = (size_t)data.len - start;
            flags[block] = content_matches(key, (const uint8_t *)data.buf + start, rest < block_size ? rest : block_size,
                                           block_size, (const uint8_t *)digests.buf + block * DIGEST_BYTES, padded);
        }
        Py_END_ALLOW_THREADS
    }
    free(padded);
    PyBuffer_Release(&data);
    PyBuffer_Release(&digests);
    return result;
}

static PyObject *blake3_function(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer prefix, data;
    unsigned int lanes = 0;
    PyObject *key_object = Py_None;
    uint8_t digest[DIGEST_BYTES], *key = NULL;
    if (!PyArg_ParseTuple(args, "y*y*|IO", &prefix, &data, &lanes, &key_object))
        return NULL;
    bool is_valid = digest_key(key_object, &key) && prefix.len == PREFIX_BYTES && blake3_is_available(lanes);
    if (PyErr_Occurred()) {
        /* digest_key() has set it */
    } else if (!is_valid) {
        PyErr_SetString(PyExc_ValueError, "a prefix has 8 bytes, and this processor 8 or 16 lanes");
    } else if (data.len < UNLOCKED_BYTES) {
        blake3_digest_in_lanes(lanes, key, prefix.buf, data.buf, data.len, digest);
    } else {
        Py_BEGIN_ALLOW_THREADS
        blake3_digest_in_lanes(lanes, key, prefix.buf, data.buf, data.len, digest);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&data);
    return is_valid ? PyBytes_FromStringAndSize((const char *)digest, DIGEST_BYTES) : NULL;
}

PyMethodDef digest_functions[] = {
    {"blake3", blake3_function, METH_VARARGS, "Return the BLAKE3-256, maybe keyed, of a prefix of 8 bytes followed by data."},
    {"has_blake3", has_blake3, METH_VARARGS, "Return True if compiled code can compute digests on this processor."},
    {"matching_blocks", matching_blocks, METH_VARARGS, "Return for each block whether it has its digest."},
    {NULL, NULL, 0, NULL},
};
