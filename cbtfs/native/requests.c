/* The Python type Requests: the requests of one FUSE device. _core.pyi declares its signatures. */
#include "types.h"

#include <errno.h>
#include <stdlib.h>

#include "fuse.h"
#include "seek.h"

/* Parts of a file's map that one seek may load: 128 leaves in about 20 ms. The kernel holds a lock of the file
 * meanwhile. */
enum { MAX_MAP_PARTS = 2 };

static const uint64_t MAX_OFFSET = INT64_MAX; /* the kernel's offsets are signed */

typedef struct {
    PyObject_HEAD
    requests requests;
    ChunksObject *chunks;
} RequestsObject;

static PyObject *Requests_new(PyTypeObject *type, PyObject *args, PyObject *named)
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
    self->requests.reader = &chunks->reader;
    self->chunks = (ChunksObject *)Py_NewRef(chunks);
    file_table_init(&self->requests.files);
    leaf_table_init(&self->requests.leaves);
    data_map_init(&self->requests.map);
    request_wait_init(&self->requests.wait);
    return (PyObject *)self;
}

static void Requests_dealloc(RequestsObject *self)
{
    if (self->chunks != NULL) {
        file_table_destroy(&self->requests.files);
        leaf_table_destroy(&self->requests.leaves);
        data_map_destroy(&self->requests.map);
    }
    Py_XDECREF(self->chunks);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *Requests_add_disk(RequestsObject *self, PyObject *args)
{
    unsigned long long inode, size;
    unsigned int block_size;
    if (!PyArg_ParseTuple(args, "KKI", &inode, &size, &block_size))
        return NULL;
    if (block_size == 0 || block_size > MAX_CHUNK_BYTES) {
        PyErr_SetString(PyExc_ValueError, "invalid block size");
        return NULL;
    }
    if (!file_table_add_disk(&self->requests.files, inode, size, block_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Segments of a slice while they are decoded. */
typedef struct {
    slice_segment *segments;
    disk_area *areas;
    size_t segment_count, area_count, area_capacity;
} decoded_slice;

/* Append the areas of the last segment. Return false and set an exception if they are invalid. */
static bool decode_areas(decoded_slice *slice, PyObject *areas)
{
    slice_segment *segment = &slice->segments[slice->segment_count];
    segment->first_area = slice->area_count;
    segment->area_count = PyTuple_GET_SIZE(areas);
    if (slice->area_count + segment->area_count > slice->area_capacity) {
        size_t capacity = 2 * slice->area_capacity + segment->area_count;
        disk_area *larger = realloc(slice->areas, capacity * sizeof *larger);
        if (larger == NULL) {
            PyErr_NoMemory();
            return false;
        }
        slice->areas = larger;
        slice->area_capacity = capacity;
    }
    for (size_t number = 0; number < segment->area_count; number++) {
        unsigned long long disk, offset;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(areas, number), "KK", &disk, &offset))
            return false;
        if (offset > MAX_OFFSET) {
            PyErr_SetString(PyExc_ValueError, "invalid area of a slice");
            return false;
        }
        slice->areas[slice->area_count++] = (disk_area){disk, offset};
    }
    return true;
}

/* Append a segment. Return false and set an exception if it is invalid. */
static bool decode_segment(decoded_slice *slice, PyObject *item)
{
    unsigned long long length, stripe_bytes;
    PyObject *areas;
    if (!PyArg_ParseTuple(item, "KKO!", &length, &stripe_bytes, &PyTuple_Type, &areas))
        return false;
    const slice_segment *last = slice->segment_count == 0 ? NULL : &slice->segments[slice->segment_count - 1];
    uint64_t start = last == NULL ? 0 : last->start + last->length;
    if (length == 0 || length > MAX_OFFSET - start || stripe_bytes == 0 || PyTuple_GET_SIZE(areas) == 0) {
        PyErr_SetString(PyExc_ValueError, "invalid segment of a slice");
        return false;
    }
    slice->segments[slice->segment_count]
        = (slice_segment){.start = start, .length = length, .stripe_bytes = stripe_bytes};
    if (!decode_areas(slice, areas))
        return false;
    slice->segment_count++;
    return true;
}

static PyObject *Requests_add_slice(RequestsObject *self, PyObject *args)
{
    unsigned long long inode;
    PyObject *segments;
    if (!PyArg_ParseTuple(args, "KO!", &inode, &PyTuple_Type, &segments))
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(segments);
    decoded_slice slice = {.segments = calloc(count + 1, sizeof(slice_segment))};
    bool is_valid = slice.segments != NULL;
    if (!is_valid)
        PyErr_NoMemory();
    for (Py_ssize_t number = 0; is_valid && number < count; number++)
        is_valid = decode_segment(&slice, PyTuple_GET_ITEM(segments, number));
    if (!is_valid) {
        free(slice.segments);
        free(slice.areas);
        return NULL;
    }
    if (!file_table_add_slice(&self->requests.files, inode, slice.segments, slice.segment_count, slice.areas))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *Requests_has_file(RequestsObject *self, PyObject *args)
{
    unsigned long long inode;
    if (!PyArg_ParseTuple(args, "K", &inode))
        return NULL;
    return PyBool_FromLong(file_table_has(&self->requests.files, inode));
}

static PyObject *Requests_drop_file(RequestsObject *self, PyObject *args)
{
    unsigned long long inode;
    if (!PyArg_ParseTuple(args, "K", &inode))
        return NULL;
    file_table_drop(&self->requests.files, inode);
    leaf_table_drop(&self->requests.leaves, inode);
    data_map_drop(&self->requests.map, inode);
    Py_RETURN_NONE;
}

static PyObject *Requests_put_leaf(RequestsObject *self, PyObject *args)
{
    unsigned long long inode, index;
    PyObject *leaf;
    if (!PyArg_ParseTuple(args, "KKO", &inode, &index, &leaf))
        return NULL;
    if (leaf != Py_None && !PyObject_TypeCheck(leaf, &LeafType)) {
        PyErr_SetString(PyExc_TypeError, "leaf must be a Leaf or None");
        return NULL;
    }
    leaf_table_put(&self->requests.leaves, inode, index, leaf == Py_None ? NULL : ((LeafObject *)leaf)->leaf);
    Py_RETURN_NONE;
}

static PyObject *Requests_put_map(RequestsObject *self, PyObject *args)
{
    unsigned long long inode, first, end;
    Py_buffer masks;
    if (!PyArg_ParseTuple(args, "KKy*K", &inode, &first, &masks, &end))
        return NULL;
    bool is_valid = masks.len % sizeof(uint64_t) == 0
        && data_map_put(&self->requests.map, inode, first, masks.buf, masks.len / sizeof(uint64_t), end);
    PyBuffer_Release(&masks);
    if (!is_valid) {
        PyErr_SetString(PyExc_ValueError, "invalid range of a map");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *Requests_clear(RequestsObject *self, PyObject *nothing)
{
    (void)nothing;
    leaf_table_clear(&self->requests.leaves);
    Py_RETURN_NONE;
}

/* Report an exception of digest_of. Nobody here can handle it, and the read is answered in another way. */
static void report_digest_error(RequestsObject *self)
{
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(self->chunks->digest_of);
}

/* Call the Python function *read* and reply with its result: bytes, or an errno. */
static void answer(RequestsObject *self, const fuse_read *request, PyObject *read)
{
    PyObject *result = PyObject_CallFunction(read, "KKI", (unsigned long long)request->inode,
                                            (unsigned long long)request->offset, (unsigned int)request->length);
    Py_buffer data;
    bool is_answered = false;
    int error = EIO;
    if (result != NULL && PyLong_Check(result)) {
        error = PyLong_AsLong(result);
    } else if (result != NULL && PyObject_GetBuffer(result, &data, PyBUF_SIMPLE) == 0) {
        /* The protocol forbids a reply longer than the request. */
        if (data.len <= (Py_ssize_t)request->length) {
            Py_BEGIN_ALLOW_THREADS
            requests_reply(&self->requests, request->unique, data.buf, data.len, 0);
            Py_END_ALLOW_THREADS
            is_answered = true;
        }
        PyBuffer_Release(&data);
    }
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(read);
    if (!is_answered)
        requests_reply(&self->requests, request->unique, NULL, 0, error == 0 ? EIO : error);
    Py_XDECREF(result);
}

/* Call the Python function *prepare*. Return true if the read could then be answered here. */
static bool answer_prepared(RequestsObject *self, request_buffers *buffers, const fuse_read *request, PyObject *prepare)
{
    PyObject *result = PyObject_CallFunction(prepare, "KKI", (unsigned long long)request->inode,
                                            (unsigned long long)request->offset, (unsigned int)request->length);
    bool is_answered = false;
    if (result == NULL)
        PyErr_WriteUnraisable(prepare);
    else if (PyObject_IsTrue(result) == 1) {
        Py_BEGIN_ALLOW_THREADS
        requests_try_read(&self->requests, buffers, request, &is_answered);
        Py_END_ALLOW_THREADS
        report_digest_error(self);
    }
    Py_XDECREF(result);
    return is_answered;
}

/* Call the Python function *prepare_seek* until the seek can be answered, and at most MAX_MAP_PARTS times. */
static void answer_seek(RequestsObject *self, fuse_seek *seek, PyObject *prepare_seek)
{
    for (int parts = 0; parts < MAX_MAP_PARTS; parts++) {
        PyObject *result = PyObject_CallFunction(prepare_seek, "KK", (unsigned long long)seek->inode,
                                                 (unsigned long long)seek->position);
        bool is_prepared = result == Py_None;
        long long size = result == NULL || is_prepared ? -EIO : PyLong_AsLongLong(result);
        if (PyErr_Occurred()) {
            PyErr_WriteUnraisable(prepare_seek);
            size = -EIO;
        }
        Py_XDECREF(result);
        if (!is_prepared) {
            if (size < 0)
                requests_reply(&self->requests, seek->unique, NULL, 0, size <= -MAX_ERRNO ? EIO : (int)-size);
            else
                requests_seek_dense(&self->requests, seek, size);
            return;
        }
        bool is_answered;
        Py_BEGIN_ALLOW_THREADS
        is_answered = requests_try_seek(&self->requests, seek);
        Py_END_ALLOW_THREADS
        if (is_answered)
            return;
    }
    requests_seek_bounded(&self->requests, seek);
}

static PyObject *loop_result(next_status status)
{
    if (status == NEXT_ENDED)
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *Requests_serve(RequestsObject *self, PyObject *args)
{
    PyObject *prepare, *read, *prepare_seek;
    request_buffers buffers;
    if (!PyArg_ParseTuple(args, "OOO", &prepare, &read, &prepare_seek))
        return NULL;
    if (!request_buffers_init(&buffers)) {
        request_buffers_destroy(&buffers);
        return PyErr_NoMemory();
    }
    next_status status;
    for (;;) {
        fuse_read request;
        fuse_seek seek;
        Py_BEGIN_ALLOW_THREADS
        status = requests_next(&self->requests, &buffers, &request, &seek);
        Py_END_ALLOW_THREADS
        report_digest_error(self);
        if (status == NEXT_SEEK)
            answer_seek(self, &seek, prepare_seek);
        else if (status != NEXT_READ)
            break;
        else if (!answer_prepared(self, &buffers, &request, prepare))
            answer(self, &request, read);
    }
    int error = errno;
    request_buffers_destroy(&buffers);
    errno = error;
    return loop_result(status);
}

static PyObject *Requests_forward_replies(RequestsObject *self, PyObject *nothing)
{
    (void)nothing;
    request_buffers buffers;
    if (!request_buffers_init(&buffers)) {
        request_buffers_destroy(&buffers);
        return PyErr_NoMemory();
    }
    next_status status;
    Py_BEGIN_ALLOW_THREADS
    status = requests_forward_replies(&self->requests, &buffers);
    Py_END_ALLOW_THREADS
    int error = errno;
    request_buffers_destroy(&buffers);
    errno = error;
    return loop_result(status);
}

static PyMethodDef requests_methods[] = {
    {"add_disk", (PyCFunction)Requests_add_disk, METH_VARARGS, "Answer reads and seeks of an open disk."},
    {"add_slice", (PyCFunction)Requests_add_slice, METH_VARARGS,
     "Answer reads and seeks of a file that consists of parts of disks."},
    {"has_file", (PyCFunction)Requests_has_file, METH_VARARGS, "Return True if a disk or a slice is added."},
    {"drop_file", (PyCFunction)Requests_drop_file, METH_VARARGS,
     "Stop answering requests for a file, and drop its leaves and its map."},
    {"put_leaf", (PyCFunction)Requests_put_leaf, METH_VARARGS, "Cache a leaf of an open file, or None for zeros."},
    {"put_map", (PyCFunction)Requests_put_map, METH_VARARGS,
     "Cache which blocks of a range of an open file hold data."},
    {"clear", (PyCFunction)Requests_clear, METH_NOARGS, "Drop all cached leaves."},
    {"serve", (PyCFunction)Requests_serve, METH_VARARGS,
     "Answer reads and seeks, and forward other requests, until the file system is unmounted."},
    {"forward_replies", (PyCFunction)Requests_forward_replies, METH_NOARGS,
     "Forward replies from the session socket to the kernel until the socket is closed."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject RequestsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "cbtfs.native.Requests",
    .tp_doc = "The requests of one FUSE device.",
    .tp_basicsize = sizeof(RequestsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Requests_new,
    .tp_dealloc = (destructor)Requests_dealloc,
    .tp_methods = requests_methods,
};
