/* The module: PackFile, Leaf, Chunks, faults. Its signatures stand in _core.pyi. */
#include "types.h"

#include <errno.h>

#include "fault.h"

/* PackFile */

typedef struct {
    PyObject_HEAD
    pack_file *file;
} PackFileObject;

static PyObject *pack_file_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"fd", NULL};
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, named, "i", names, &fd))
        return NULL;
    PackFileObject *self = (PackFileObject *)type->tp_alloc(type, 0);
    if (self != NULL && (self->file = pack_file_new(fd)) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void pack_file_end(PackFileObject *self)
{
    pack_file_drop(self->file);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *pack_file_fileno(PackFileObject *self, PyObject *nothing)
{
    (void)nothing;
    return PyLong_FromLong(self->file->fd);
}

static PyMethodDef pack_file_methods[] = {
    {"fileno", (PyCFunction)pack_file_fileno, METH_NOARGS, "The descriptor."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject PackFileType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.PackFile",
    .tp_doc = "A descriptor of a pack, closed when neither Python nor a leaf refers to it.",
    .tp_basicsize = sizeof(PackFileObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = pack_file_make,
    .tp_dealloc = (destructor)pack_file_end,
    .tp_methods = pack_file_methods,
};

/* Leaf */

static bool decode_place(PyObject *entry, place *place)
{
    char *data;
    Py_ssize_t length;
    if (entry == Py_None)
        return true;
    if (PyBytes_AsStringAndSize(entry, &data, &length) < 0)
        return false;
    if (length != PLACE_BYTES) {
        PyErr_SetString(PyExc_ValueError, "not an encoded location");
        return false;
    }
    const uint8_t *at = (const uint8_t *)data;
    uint32_t *fields[] = {&place->pack, &place->offset, &place->stored, &place->plain};
    for (int number = 0; number < 4; number++, at += 4)
        *fields[number] = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    place->kind = at[0], place->level = at[1], place->codec = at[2];
    memcpy(place->digest, at + 4, DIGEST_BYTES);
    place->is_data = true;
    return true;
}

static PyObject *leaf_make(PyTypeObject *type, PyObject *args, PyObject *named)
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
        if (!decode_place(PyTuple_GET_ITEM(entries, slot), &self->leaf->places[slot])) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static void leaf_end(LeafObject *self)
{
    leaf_drop(self->leaf);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *leaf_wanted_pack(LeafObject *self, PyObject *args)
{
    int slot;
    if (!PyArg_ParseTuple(args, "i", &slot))
        return NULL;
    if (slot < 0 || slot >= FANOUT) {
        PyErr_SetString(PyExc_IndexError, "a leaf has 64 slots");
        return NULL;
    }
    place *place = &self->leaf->places[slot];
    if (!place->is_data || atomic_load(&place->file) != NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(place->pack);
}

static PyObject *leaf_attach(LeafObject *self, PyObject *args)
{
    unsigned int pack;
    PackFileObject *file;
    if (!PyArg_ParseTuple(args, "IO!", &pack, &PackFileType, &file))
        return NULL;
    for (int slot = 0; slot < FANOUT; slot++) {
        place *place = &self->leaf->places[slot];
        if (!place->is_data || place->pack != pack)
            continue;
        pack_file *none = NULL;
        atomic_fetch_add(&file->file->references, 1);
        if (!atomic_compare_exchange_strong(&place->file, &none, file->file))
            pack_file_drop(file->file);
    }
    Py_RETURN_NONE;
}

static PyMethodDef leaf_methods[] = {
    {"wanted_pack", (PyCFunction)leaf_wanted_pack, METH_VARARGS,
     "The number of the pack that has to be attached before that slot can be read, or None."},
    {"attach", (PyCFunction)leaf_attach, METH_VARARGS, "Let all chunks of a pack be read from its file."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LeafType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Leaf",
    .tp_doc = "Where 64 chunks are.",
    .tp_basicsize = sizeof(LeafObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = leaf_make,
    .tp_dealloc = (destructor)leaf_end,
    .tp_methods = leaf_methods,
};

/* Chunks */

/* An exception, say a KeyboardInterrupt, stays set: it is for whoever asked for the bytes. */
static bool check_digest(void *context, const uint8_t *content, size_t length, const uint8_t *digest)
{
    PyObject *digest_of = context;
    PyGILState_STATE state = PyGILState_Ensure();
    if (PyErr_Occurred()) { /* of a chunk before, still to be raised */
        PyGILState_Release(state);
        return false;
    }
    char *prefixed = (char *)content - PREFIX_BYTES;
    PyObject *view = PyMemoryView_FromMemory(prefixed, PREFIX_BYTES + length, PyBUF_READ);
    PyObject *found = view == NULL ? NULL : PyObject_CallOneArg(digest_of, view);
    bool is_equal = found != NULL && PyBytes_Check(found) && PyBytes_GET_SIZE(found) == DIGEST_BYTES
        && memcmp(PyBytes_AS_STRING(found), digest, DIGEST_BYTES) == 0;
    Py_XDECREF(found);
    Py_XDECREF(view);
    PyGILState_Release(state);
    return is_equal;
}

static PyObject *chunks_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"cache_bytes", "digest_of", "is_strict", NULL};
    Py_ssize_t cache_bytes;
    PyObject *digest_of;
    int is_strict;
    if (!PyArg_ParseTupleAndKeywords(args, named, "nOp", names, &cache_bytes, &digest_of, &is_strict))
        return NULL;
    if (cache_bytes < 0 || !PyCallable_Check(digest_of)) {
        PyErr_SetString(PyExc_ValueError, "a size from 0, and what computes digests");
        return NULL;
    }
    ChunksObject *self = (ChunksObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->digest_of = Py_NewRef(digest_of);
    self->is_ready = chunk_cache_init(&self->cache, cache_bytes, is_strict, check_digest, digest_of);
    if (!self->is_ready) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void chunks_end(ChunksObject *self)
{
    if (self->digest_of != NULL)
        chunk_cache_end(&self->cache);
    Py_XDECREF(self->digest_of);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static size_t fill(chunk_cache *cache, leaf *leaf, uint32_t block_size, uint64_t offset, uint8_t *target, size_t length)
{
    size_t done = 0;
    while (done < length) {
        uint64_t block = (offset + done) / block_size;
        uint32_t within = (offset + done) % block_size, count = block_size - within;
        if (block >= FANOUT)
            break;
        if (count > length - done)
            count = length - done;
        place *place = &leaf->places[block];
        if (!place->is_data) {
            memset(target + done, 0, count);
        } else {
            chunk_bytes found;
            if (place->plain != block_size
                || chunk_read(cache, place, within, count, target + done, &found) != READ_OK)
                break;
            if (found.pinned != NULL) {
                memcpy(target + done, found.data, count);
                chunk_unpin(cache, found.pinned);
            }
        }
        done += count;
    }
    return done;
}

static PyObject *chunks_fill(ChunksObject *self, PyObject *args)
{
    LeafObject *leaf;
    unsigned int block_size;
    unsigned long long offset;
    Py_buffer target;
    if (!PyArg_ParseTuple(args, "O!IKw*", &LeafType, &leaf, &block_size, &offset, &target))
        return NULL;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES) {
        PyBuffer_Release(&target);
        PyErr_SetString(PyExc_ValueError, "not a block size");
        return NULL;
    }
    size_t done;
    Py_BEGIN_ALLOW_THREADS
    done = fill(&self->cache, leaf->leaf, block_size, offset, target.buf, target.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&target);
    return PyErr_Occurred() ? NULL : PyLong_FromSize_t(done);
}

static PyObject *chunks_held(ChunksObject *self, void *nothing)
{
    (void)nothing;
    pthread_mutex_lock(&self->cache.lock);
    size_t held = self->cache.held;
    pthread_mutex_unlock(&self->cache.lock);
    return PyLong_FromSize_t(held);
}

static PyMethodDef chunks_methods[] = {
    {"fill", (PyCFunction)chunks_fill, METH_VARARGS,
     "Put verified bytes of a leaf's blocks into a buffer; how many, fewer where Python has to look."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef chunks_properties[] = {
    {"cached_bytes", (getter)chunks_held, NULL, "Of decoded chunks.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject ChunksType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Chunks",
    .tp_doc = "Verified bytes of chunks, and a bounded cache of those that had to be decoded.",
    .tp_basicsize = sizeof(ChunksObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = chunks_make,
    .tp_dealloc = (destructor)chunks_end,
    .tp_methods = chunks_methods,
    .tp_getset = chunks_properties,
};

/* The module */

static PyObject *open_pack_files(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    return PyLong_FromLong(pack_files_open());
}

static PyObject *removed_pack_files(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    bool is_found;
    Py_BEGIN_ALLOW_THREADS
    is_found = pack_files_removed();
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_found);
}

static PyObject *end_at_faults(PyObject *module, PyObject *args)
{
    (void)module;
    const char *text;
    Py_ssize_t length;
    int code;
    if (!PyArg_ParseTuple(args, "y#i", &text, &length, &code))
        return NULL;
    if (fault_end_with(text, (size_t)length, code) < 0)
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
        piece_crcs(data.buf, data.len, (uint8_t *)PyBytes_AS_STRING(table));
    PyBuffer_Release(&data);
    return table;
}

static PyMethodDef functions[] = {
    {"crc_table", crc_table, METH_O, "The CRC-32 of each 4 KiB of a raw chunk, as they stand before it."},
    {"end_at_faults", end_at_faults, METH_VARARGS, "Say this to stderr and exit so at a fault of memory or abort()."},
    {"open_pack_files", open_pack_files, METH_NOARGS, "How many descriptors of packs this process has open."},
    {"removed_pack_files", removed_pack_files, METH_NOARGS, "Whether a pack that is open was removed."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "cbtfs.native._core",
    .m_doc = "Chunks read and verified, and FUSE reads answered, without Python's lock.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &PackFileType) < 0 || PyModule_AddType(module, &LeafType) < 0
        || PyModule_AddType(module, &ChunksType) < 0 || PyModule_AddType(module, &RequestsType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
