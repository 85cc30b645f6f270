/* The Python face of the FUSE device: Requests. Its signatures stand in _core.pyi. */
#include "types.h"

#include <errno.h>

#include "fuse.h"

typedef struct {
    PyObject_HEAD
    requests requests;
    ChunksObject *chunks;
} RequestsObject;

static PyObject *requests_make(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"device", "session", "chunks", NULL};
    int device, session;
    ChunksObject *chunks;
    if (!PyArg_ParseTupleAndKeywords(args, named, "iiO!", names, &device, &session, &ChunksType, &chunks))
        return NULL;
    RequestsObject *self = (RequestsObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->requests.device = device;
    self->requests.session = session;
    self->requests.cache = &chunks->cache;
    self->chunks = (ChunksObject *)Py_NewRef(chunks);
    leaves_init(&self->requests.leaves);
    return (PyObject *)self;
}

static void requests_end(RequestsObject *self)
{
    if (self->chunks != NULL)
        leaves_end(&self->requests.leaves);
    Py_XDECREF(self->chunks);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *requests_add_file(RequestsObject *self, PyObject *args)
{
    unsigned long long inode, size;
    unsigned int block_size;
    if (!PyArg_ParseTuple(args, "KKI", &inode, &size, &block_size))
        return NULL;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES) {
        PyErr_SetString(PyExc_ValueError, "not a block size");
        return NULL;
    }
    if (!leaves_add_file(&self->requests.leaves, inode, size, block_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *requests_drop_file(RequestsObject *self, PyObject *args)
{
    unsigned long long inode;
    if (!PyArg_ParseTuple(args, "K", &inode))
        return NULL;
    leaves_drop_file(&self->requests.leaves, inode);
    Py_RETURN_NONE;
}

static PyObject *requests_put_leaf(RequestsObject *self, PyObject *args)
{
    unsigned long long inode, index;
    PyObject *leaf;
    if (!PyArg_ParseTuple(args, "KKO", &inode, &index, &leaf))
        return NULL;
    if (leaf != Py_None && !PyObject_TypeCheck(leaf, &LeafType)) {
        PyErr_SetString(PyExc_TypeError, "neither a Leaf nor None");
        return NULL;
    }
    leaves_put(&self->requests.leaves, inode, index, leaf == Py_None ? NULL : ((LeafObject *)leaf)->leaf);
    Py_RETURN_NONE;
}

static PyObject *requests_clear(RequestsObject *self, PyObject *nothing)
{
    (void)nothing;
    leaves_clear(&self->requests.leaves);
    Py_RETURN_NONE;
}

/* What digest_of raised is for nobody here: the read is answered in another way. */
static void tell_of_digests(RequestsObject *self)
{
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(self->chunks->digest_of);
}

/* Answer with what *read* returned: bytes, or an errno. */
static void answer(RequestsObject *self, const fuse_read *asked, PyObject *read)
{
    PyObject *found = PyObject_CallFunction(read, "KKI", (unsigned long long)asked->inode,
                                            (unsigned long long)asked->offset, (unsigned int)asked->length);
    Py_buffer data;
    bool is_answered = false;
    int error = EIO;
    if (found != NULL && PyLong_Check(found)) {
        error = PyLong_AsLong(found);
    } else if (found != NULL && PyObject_GetBuffer(found, &data, PyBUF_SIMPLE) == 0) {
        /* More than was asked for breaks the protocol. */
        if (data.len <= (Py_ssize_t)asked->length) {
            Py_BEGIN_ALLOW_THREADS
            requests_reply(&self->requests, asked->unique, data.buf, data.len, 0);
            Py_END_ALLOW_THREADS
            is_answered = true;
        }
        PyBuffer_Release(&data);
    }
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(read);
    if (!is_answered)
        requests_reply(&self->requests, asked->unique, NULL, 0, error == 0 ? EIO : error);
    Py_XDECREF(found);
}

/* Whether *prepare* made known what the read takes, and it could then be answered without more of Python. */
static bool answer_prepared(RequestsObject *self, request_memory *memory, const fuse_read *asked, PyObject *prepare)
{
    PyObject *found = PyObject_CallFunction(prepare, "KKI", (unsigned long long)asked->inode,
                                            (unsigned long long)asked->offset, (unsigned int)asked->length);
    bool is_answered = false;
    if (found == NULL)
        PyErr_WriteUnraisable(prepare);
    else if (PyObject_IsTrue(found) == 1) {
        Py_BEGIN_ALLOW_THREADS
        requests_try(&self->requests, memory, asked, &is_answered);
        Py_END_ALLOW_THREADS
        tell_of_digests(self);
    }
    Py_XDECREF(found);
    return is_answered;
}

static PyObject *loop_end(next_status status)
{
    if (status == NEXT_ENDED)
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *requests_serve(RequestsObject *self, PyObject *args)
{
    PyObject *prepare, *read;
    request_memory memory;
    if (!PyArg_ParseTuple(args, "OO", &prepare, &read))
        return NULL;
    if (!request_memory_init(&memory)) {
        request_memory_end(&memory);
        return PyErr_NoMemory();
    }
    next_status status;
    for (;;) {
        fuse_read asked;
        Py_BEGIN_ALLOW_THREADS
        status = requests_next(&self->requests, &memory, &asked);
        Py_END_ALLOW_THREADS
        tell_of_digests(self);
        if (status != NEXT_READ)
            break;
        if (!answer_prepared(self, &memory, &asked, prepare))
            answer(self, &asked, read);
    }
    int error = errno;
    request_memory_end(&memory);
    errno = error;
    return loop_end(status);
}

static PyObject *requests_replies(RequestsObject *self, PyObject *nothing)
{
    (void)nothing;
    request_memory memory;
    if (!request_memory_init(&memory)) {
        request_memory_end(&memory);
        return PyErr_NoMemory();
    }
    next_status status;
    Py_BEGIN_ALLOW_THREADS
    status = requests_pass_replies(&self->requests, &memory);
    Py_END_ALLOW_THREADS
    int error = errno;
    request_memory_end(&memory);
    errno = error;
    return loop_end(status);
}

static PyMethodDef requests_methods[] = {
    {"add_file", (PyCFunction)requests_add_file, METH_VARARGS, "Know an open file."},
    {"drop_file", (PyCFunction)requests_drop_file, METH_VARARGS, "Know an open file no more."},
    {"put_leaf", (PyCFunction)requests_put_leaf, METH_VARARGS, "Know a leaf of an open file; None: zeros."},
    {"clear", (PyCFunction)requests_clear, METH_NOARGS, "Know no leaf any more."},
    {"serve", (PyCFunction)requests_serve, METH_VARARGS, "Answer reads and pass on the rest until the mount ends."},
    {"pass_replies", (PyCFunction)requests_replies, METH_NOARGS,
     "Give the kernel the replies that come through the session's socket until that is closed."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject RequestsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Requests",
    .tp_doc = "The requests of one FUSE device.",
    .tp_basicsize = sizeof(RequestsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = requests_make,
    .tp_dealloc = (destructor)requests_end,
    .tp_methods = requests_methods,
};
