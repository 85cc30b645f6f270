/* Python function that compares parts of a file with digests. _core.pyi declares its signature. */
#include "types.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "blake3.h"
#include "page_cache.h"

enum { DIRECT_UNIT = 4096, /* offsets and lengths of direct reads: the largest logical block size of Linux */
       ENDED = -1 };       /* result of a read beyond the end of the file */

/* A file to compare, with a buffer. */
typedef struct {
    int fd, direct_fd; /* of the same file, opened with O_DIRECT; or -1 */
    uint8_t *buffer;   /* begins at a page */
    size_t buffer_bytes, block_size;
    uint8_t *key, *padded;
} compared_file;

/* A part of the file. The caller passes an array of them as numbers. */
typedef struct {
    uint64_t offset, length;
} area;

/* Read exactly *length* bytes. Return 0, an errno, or ENDED. */
static int read_exactly(int fd, uint8_t *target, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t done = pread(fd, target, length, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : ENDED;
        target += done, length -= done, offset += done;
    }
    return 0;
}

/* Fill the start of the buffer: whole pages that are not cached directly, the rest through the page cache. */
static int read_part(compared_file *file, uint64_t offset, size_t length)
{
    size_t direct = offset % DIRECT_UNIT == 0 ? length / DIRECT_UNIT * DIRECT_UNIT : 0;
    if (file->direct_fd < 0 || direct == 0 || page_cache_has(file->fd, (off_t)offset, length) == 1) {
        direct = 0;
    } else {
        int error = read_exactly(file->direct_fd, file->buffer, direct, offset);
        if (error == EINVAL || error == EOPNOTSUPP) /* the kernel refuses direct reads here */
            file->direct_fd = -1, direct = 0;
        else if (error != 0)
            return error;
    }
    return read_exactly(file->fd, file->buffer + direct, length - direct, offset + direct);
}

static size_t blocks_in(uint64_t length, size_t block_size)
{
    return length / block_size + (length % block_size != 0);
}

/* Set a flag for each block of *area*. Return 0, an errno, or ENDED. */
static int compare_area(compared_file *file, area area, const uint8_t *digests, char *flags)
{
    size_t step = file->buffer_bytes / file->block_size * file->block_size;
    while (area.length > 0) {
        size_t count = area.length < step ? area.length : step;
        int error = read_part(file, area.offset, count);
        if (error != 0)
            return error;
        for (size_t at = 0; at < count; at += file->block_size, digests += DIGEST_BYTES, flags++) {
            size_t length = count - at < file->block_size ? count - at : file->block_size;
            *flags = content_matches(file->key, file->buffer + at, length, file->block_size, digests, file->padded);
        }
        area.offset += count, area.length -= count;
    }
    return 0;
}

static int compare_areas(compared_file *file, const area *areas, size_t count, const uint8_t *digests, char *flags)
{
    int error = 0;
    for (size_t number = 0; number < count && error == 0; number++) {
        error = compare_area(file, areas[number], digests, flags);
        size_t blocks = blocks_in(areas[number].length, file->block_size);
        digests += blocks * DIGEST_BYTES, flags += blocks;
    }
    return error;
}

/* Return the number of blocks of all areas; SIZE_MAX if an area is invalid. */
static size_t count_blocks(const area *areas, size_t count, size_t block_size)
{
    size_t blocks = 0;
    for (size_t number = 0; number < count; number++) {
        if (areas[number].offset > INT64_MAX || areas[number].length > INT64_MAX - areas[number].offset)
            return SIZE_MAX;
        blocks += blocks_in(areas[number].length, block_size);
    }
    return blocks;
}

static PyObject *matches_of(compared_file *file, const Py_buffer *areas, const Py_buffer *digests)
{
    size_t count = (size_t)areas->len / sizeof(area), size = file->block_size;
    if (size == 0 || size > MAX_CHUNK_BYTES || file->buffer_bytes < size || (size_t)areas->len % sizeof(area) != 0
        || (count > 0 && (uintptr_t)areas->buf % _Alignof(area) != 0) || (size_t)digests->len % DIGEST_BYTES != 0
        || count_blocks(areas->buf, count, size) != (size_t)digests->len / DIGEST_BYTES || !blake3_is_available(0)) {
        PyErr_SetString(PyExc_ValueError, "invalid block size, buffer, areas or number of digests");
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, digests->len / DIGEST_BYTES);
    if (result == NULL || (file->padded = malloc(size)) == NULL) {
        Py_XDECREF(result);
        return PyErr_NoMemory();
    }
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = compare_areas(file, areas->buf, count, digests->buf, PyBytes_AS_STRING(result));
    Py_END_ALLOW_THREADS
    free(file->padded);
    if (error == 0)
        return result;
    Py_DECREF(result);
    if (error == ENDED) {
        PyErr_SetString(PyExc_EOFError, "the file ends within an area");
        return NULL;
    }
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *matching_in_file(PyObject *module, PyObject *args)
{
    (void)module;
    compared_file file = {0};
    Py_buffer areas, digests, buffer;
    unsigned int block_size;
    PyObject *key = Py_None;
    if (!PyArg_ParseTuple(args, "(ii)y*Iy*w*|O", &file.fd, &file.direct_fd, &areas, &block_size, &digests, &buffer, &key))
        return NULL;
    file.buffer = buffer.buf, file.buffer_bytes = buffer.len, file.block_size = block_size;
    PyObject *result = digest_key(key, &file.key) ? matches_of(&file, &areas, &digests) : NULL;
    PyBuffer_Release(&areas);
    PyBuffer_Release(&digests);
    PyBuffer_Release(&buffer);
    return result;
}

PyMethodDef compare_functions[] = {
    {"matching_in_file", matching_in_file, METH_VARARGS, "Return for each block of parts of a file whether it has its digest."},
    {NULL, NULL, 0, NULL},
};
