/* The Python module: PackFile, Leaf, Chunks and functions. _core.pyi declares their signatures. */
#include "types.h"

#include <errno.h>
#include <libdeflate.h>

#include "blake3.h"
#include "copy.h"
#include "crc32c.h"
#include "fault.h"
#include "secret.h"

/* PackFile */

typedef struct {
    PyObject_HEAD
    pack_file *file;
} PackFileObject;

static PyObject *PackFile_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"fd", "is_partial", NULL};
    int fd, is_partial = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "i|p", names, &fd, &is_partial))
        return NULL;
    PackFileObject *self = (PackFileObject *)type->tp_alloc(type, 0);
    if (self != NULL && (self->file = pack_file_new(fd, is_partial)) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void PackFile_dealloc(PackFileObject *self)
{
    pack_file_drop(self->file);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *PackFile_fileno(PackFileObject *self, PyObject *nothing)
{
    (void)nothing;
    return PyLong_FromLong(self->file->fd);
}

static PyObject *PackFile_set_key(PackFileObject *self, PyObject *object)
{
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(object, &bytes, &length) < 0)
        return NULL;
    if (length != sizeof(pack_key)) {
        PyErr_SetString(PyExc_ValueError, "the key of a pack has 64 bytes: repository, pack, key");
        return NULL;
    }
    if (!pack_file_set_key(self->file, (const uint8_t *)bytes))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *PackFile_set_extents(PackFileObject *self, PyObject *args)
{
    unsigned int first, count;
    int are_present;
    if (!PyArg_ParseTuple(args, "IIp", &first, &count, &are_present))
        return NULL;
    pack_file_set_extents(self->file, first, count, are_present);
    Py_RETURN_NONE;
}

static PyObject *PackFile_has(PackFileObject *self, PyObject *args)
{
    unsigned long long offset;
    unsigned int length;
    if (!PyArg_ParseTuple(args, "KI", &offset, &length))
        return NULL;
    return PyBool_FromLong(pack_file_has(self->file, offset, length));
}

static PyMethodDef pack_file_methods[] = {
    {"set_extents", (PyCFunction)PackFile_set_extents, METH_VARARGS, "Record which extents are in a partial file."},
    {"has", (PyCFunction)PackFile_has, METH_VARARGS, "Return True if a range of bytes is in the file."},
    {"set_key", (PyCFunction)PackFile_set_key, METH_O, "Set the key of chunks of an encrypted pack; only once."},
    {"fileno", (PyCFunction)PackFile_fileno, METH_NOARGS, "Return the descriptor."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject PackFileType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.PackFile",
    .tp_doc = "The descriptor of a pack. The last reference, from Python or from a leaf, closes it.",
    .tp_basicsize = sizeof(PackFileObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PackFile_new,
    .tp_dealloc = (destructor)PackFile_dealloc,
    .tp_methods = pack_file_methods,
};

/* Leaf */

/* Decode an entry of a leaf. Return false and set an exception if it is invalid. */
static bool decode_location(PyObject *entry, location *location)
{
    char *data;
    Py_ssize_t length;
    if (entry == Py_None)
        return true;
    if (PyBytes_AsStringAndSize(entry, &data, &length) < 0)
        return false;
    if (length != LOCATION_BYTES) {
        PyErr_SetString(PyExc_ValueError, "an entry is not an encoded location");
        return false;
    }
    const uint8_t *at = (const uint8_t *)data;
    uint32_t *fields[] = {&location->pack, &location->offset, &location->stored, &location->plain};
    for (int number = 0; number < 4; number++, at += 4)
        *fields[number] = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    location->kind = at[0], location->level = at[1], location->codec = at[2], location->is_sealed = at[3] != 0;
    memcpy(location->digest, at + 4, DIGEST_BYTES);
    location->is_data = true;
    return true;
}

static PyObject *Leaf_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"entries", NULL};
    PyObject *entries;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!", names, &PyTuple_Type, &entries))
        return NULL;
    if (PyTuple_GET_SIZE(entries) != FANOUT) {
        PyErr_SetString(PyExc_ValueError, "a leaf has 64 entries");
        return NULL;
    }
    LeafObject *self = (LeafObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if ((self->leaf = leaf_new()) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (int slot = 0; slot < FANOUT; slot++) {
        if (!decode_location(PyTuple_GET_ITEM(entries, slot), &self->leaf->locations[slot])) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static void Leaf_dealloc(LeafObject *self)
{
    leaf_drop(self->leaf);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Return the location of the slot that *args* names, or NULL with an exception. */
static location *argument_location(LeafObject *self, PyObject *args)
{
    int slot;
    if (!PyArg_ParseTuple(args, "i", &slot))
        return NULL;
    if (slot < 0 || slot >= FANOUT) {
        PyErr_SetString(PyExc_IndexError, "a leaf has 64 slots");
        return NULL;
    }
    return &self->leaf->locations[slot];
}

static PyObject *Leaf_wanted_pack(LeafObject *self, PyObject *args)
{
    location *location = argument_location(self, args);
    if (location == NULL)
        return NULL;
    if (!location->is_data || atomic_load(&location->file) != NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(location->pack);
}

static PyObject *Leaf_wanted_bytes(LeafObject *self, PyObject *args)
{
    location *location = argument_location(self, args);
    if (location == NULL)
        return NULL;
    pack_file *file = atomic_load(&location->file);
    uint32_t length = location->is_data ? chunk_frame_bytes(location) : 0;
    if (length == 0 || (file != NULL && pack_file_has(file, location->offset, length)))
        Py_RETURN_NONE;
    return Py_BuildValue("III", location->pack, location->offset, length);
}

static PyObject *Leaf_attach(LeafObject *self, PyObject *args)
{
    unsigned int pack;
    PackFileObject *file;
    if (!PyArg_ParseTuple(args, "IO!", &pack, &PackFileType, &file))
        return NULL;
    leaf_attach(self->leaf, pack, file->file);
    Py_RETURN_NONE;
}

static PyObject *Leaf_data_mask(LeafObject *self, void *nothing)
{
    (void)nothing;
    return PyLong_FromUnsignedLongLong(leaf_data_mask(self->leaf));
}

static PyGetSetDef leaf_properties[] = {
    {"data_mask", (getter)Leaf_data_mask, NULL, "Bit n is set if block n holds data.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef leaf_methods[] = {
    {"wanted_pack", (PyCFunction)Leaf_wanted_pack, METH_VARARGS,
     "Return the number of the pack that a slot still requires, or None."},
    {"wanted_bytes", (PyCFunction)Leaf_wanted_bytes, METH_VARARGS,
     "Return pack, offset and length of a slot's frame that no attached file has, or None."},
    {"attach", (PyCFunction)Leaf_attach, METH_VARARGS, "Read all chunks in a pack from its file."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LeafType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Leaf",
    .tp_doc = "The locations of 64 chunks.",
    .tp_basicsize = sizeof(LeafObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Leaf_new,
    .tp_dealloc = (destructor)Leaf_dealloc,
    .tp_methods = leaf_methods,
    .tp_getset = leaf_properties,
};

/* Chunks */

/* A digest_check_function. An exception, for example KeyboardInterrupt, stays set: the caller of fill() raises it. */
static bool check_digest(void *context, const uint8_t *content, size_t length, const uint8_t *digest)
{
    PyObject *digest_of = context;
    PyGILState_STATE state = PyGILState_Ensure();
    if (PyErr_Occurred()) { /* an earlier chunk of this call has failed */
        PyGILState_Release(state);
        return false;
    }
    char *prefixed = (char *)content - PREFIX_BYTES;
    PyObject *view = PyMemoryView_FromMemory(prefixed, PREFIX_BYTES + length, PyBUF_READ);
    PyObject *computed = view == NULL ? NULL : PyObject_CallOneArg(digest_of, view);
    bool is_equal = computed != NULL && PyBytes_Check(computed) && PyBytes_GET_SIZE(computed) == DIGEST_BYTES
        && memcmp(PyBytes_AS_STRING(computed), digest, DIGEST_BYTES) == 0;
    Py_XDECREF(computed);
    Py_XDECREF(view);
    PyGILState_Release(state);
    return is_equal;
}

static PyObject *Chunks_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"cache_bytes", "digest_of", "is_strict", "key", NULL};
    Py_ssize_t cache_bytes;
    PyObject *digest_of, *key_object = Py_None;
    int is_strict;
    uint8_t *key;
    if (!PyArg_ParseTupleAndKeywords(args, named, "nOp|O", names, &cache_bytes, &digest_of, &is_strict, &key_object)
        || !digest_key(key_object, &key))
        return NULL;
    bool is_compiled = digest_of == Py_None;
    if (cache_bytes < 0 || (is_compiled ? !blake3_is_available(0) : !PyCallable_Check(digest_of))) {
        PyErr_SetString(PyExc_ValueError, "cache_bytes must not be negative, and digest_of must be callable");
        return NULL;
    }
    ChunksObject *self = (ChunksObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->digest_of = Py_NewRef(digest_of);
    self->key = key == NULL ? NULL : secret_new(DIGEST_BYTES);
    if (self->key != NULL)
        memcpy(self->key, key, DIGEST_BYTES);
    self->reader.check = is_compiled ? (digest_check){content_has_digest, self->key, false}
                                     : (digest_check){check_digest, digest_of, true};
    self->reader.is_strict = is_strict;
    if ((key != NULL && self->key == NULL) || !chunk_cache_init(&self->reader.cache, cache_bytes)) {
        Py_CLEAR(self->digest_of);
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void Chunks_dealloc(ChunksObject *self)
{
    if (self->digest_of != NULL) /* else the constructor failed before it initialized the cache */
        chunk_cache_destroy(&self->reader.cache);
    secret_free(self->key);
    Py_XDECREF(self->digest_of);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *Chunks_fill(ChunksObject *self, PyObject *args)
{
    LeafObject *leaf;
    unsigned int block_size;
    unsigned long long offset;
    Py_buffer target;
    if (!PyArg_ParseTuple(args, "O!IKw*", &LeafType, &leaf, &block_size, &offset, &target))
        return NULL;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES) {
        PyBuffer_Release(&target);
        PyErr_SetString(PyExc_ValueError, "invalid block size");
        return NULL;
    }
    size_t done;
    Py_BEGIN_ALLOW_THREADS
    done = copy_to_memory(&self->reader, leaf->leaf, block_size, offset, target.buf, target.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&target);
    return PyErr_Occurred() ? NULL : PyLong_FromSize_t(done);
}

static PyObject *Chunks_write(ChunksObject *self, PyObject *args)
{
    LeafObject *leaf;
    unsigned int block_size;
    unsigned long long start, end, position;
    copy_target target;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(args, "O!IKK(ii)Kw*", &LeafType, &leaf, &block_size, &start, &end, &target.fd,
                          &target.direct_fd, &position, &buffer))
        return NULL;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES || (size_t)buffer.len < block_size
        || start > end || position > INT64_MAX - (uint64_t)FANOUT * MAX_CHUNK_BYTES) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "invalid block size, range or buffer");
        return NULL;
    }
    leaf_copy copy = {&self->reader, leaf->leaf, block_size, position, buffer.buf, buffer.len};
    uint64_t done;
    int error;
    Py_BEGIN_ALLOW_THREADS
    done = copy_to_file(&copy, target, start, end, &error);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    if (PyErr_Occurred())
        return NULL;
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromUnsignedLongLong(done);
}

static PyObject *Chunks_cached_bytes(ChunksObject *self, void *nothing)
{
    (void)nothing;
    return PyLong_FromSize_t(chunk_cache_bytes(&self->reader.cache));
}

static PyMethodDef chunks_methods[] = {
    {"fill", (PyCFunction)Chunks_fill, METH_VARARGS,
     "Copy verified bytes of a leaf to a buffer and return their number."},
    {"write", (PyCFunction)Chunks_write, METH_VARARGS,
     "Write the verified data of a leaf to a file and return the offset before which all is written."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef chunks_properties[] = {
    {"cached_bytes", (getter)Chunks_cached_bytes, NULL, "Size of the decoded chunks in the cache.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject ChunksType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Chunks",
    .tp_doc = "Verified bytes of chunks, with a cache of decoded chunks.",
    .tp_basicsize = sizeof(ChunksObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Chunks_new,
    .tp_dealloc = (destructor)Chunks_dealloc,
    .tp_methods = chunks_methods,
    .tp_getset = chunks_properties,
};

/* The module */

static PyObject *open_pack_files(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    return PyLong_FromLong(pack_files_open());
}

static PyObject *has_deleted_pack_files(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    bool is_deleted;
    Py_BEGIN_ALLOW_THREADS
    is_deleted = pack_files_deleted();
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_deleted);
}

static PyObject *exit_on_fault(PyObject *module, PyObject *args)
{
    (void)module;
    const char *text, *shortage;
    Py_ssize_t length, shortage_length;
    int code, shortage_code;
    if (!PyArg_ParseTuple(args, "y#iy#i", &text, &length, &code, &shortage, &shortage_length, &shortage_code))
        return NULL;
    if (fault_set_shortage(shortage, (size_t)shortage_length, shortage_code) < 0
        || fault_exit_with(text, (size_t)length, code) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *crc_table(PyObject *module, PyObject *chunk)
{
    (void)module;
    Py_buffer data;
    if (PyObject_GetBuffer(chunk, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *table = PyBytes_FromStringAndSize(NULL, (data.len + PIECE_BYTES - 1) / PIECE_BYTES * 4);
    if (table != NULL)
        frame_piece_crcs(data.buf, data.len, (uint8_t *)PyBytes_AS_STRING(table));
    PyBuffer_Release(&data);
    return table;
}

static PyObject *crc32c(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data;
    unsigned int value;
    if (!PyArg_ParseTuple(args, "y*I", &data, &value))
        return NULL;
    value = crc32c_update(value, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(value);
}

static PyObject *crc32_function(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data;
    unsigned int value;
    if (!PyArg_ParseTuple(args, "y*I", &data, &value))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    value = libdeflate_crc32(value, data.buf, (size_t)data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(value);
}

static PyMethodDef functions[] = {
    {"crc32", crc32_function, METH_VARARGS, "Return the CRC-32 of data that continues another value."},
    {"crc32c", crc32c, METH_VARARGS, "Return the CRC-32C register after data, without inversions."},
    {"crc_table", crc_table, METH_O, "Return the CRC table of a raw chunk."},
    {"exit_on_fault", exit_on_fault, METH_VARARGS,
     "Write a message to stderr and exit with a code at SIGABRT, SIGBUS and SIGSEGV."},
    {"open_pack_files", open_pack_files, METH_NOARGS, "Return the number of pack files that this process has open."},
    {"has_deleted_pack_files", has_deleted_pack_files, METH_NOARGS, "Return True if a pack that is open was deleted."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "cbtfs.native._core",
    .m_doc = "Chunk reads, verification and FUSE read replies without Python's lock.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__core(void)
{
    crc32c_set_up();
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &PackFileType) < 0 || PyModule_AddType(module, &LeafType) < 0
        || PyModule_AddType(module, &ChunksType) < 0 || PyModule_AddType(module, &RequestsType) < 0
        || PyModule_AddFunctions(module, compare_functions) < 0
        || PyModule_AddFunctions(module, digest_functions) < 0
        || PyModule_AddFunctions(module, node_functions) < 0
        || PyModule_AddFunctions(module, page_cache_functions) < 0
        || PyModule_AddFunctions(module, sealing_functions) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
