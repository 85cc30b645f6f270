/* Python function on the page cache. _core.pyi declares its signature. */
#include "page_cache.h"

#include "types.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int page_cache_has(int fd, off_t offset, size_t length)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (size_t)offset % page;
    size_t mapped = before + length, pages = (mapped + page - 1) / page;
    unsigned char *states = malloc(pages);
    void *map = states == NULL ? MAP_FAILED : mmap(NULL, mapped, PROT_READ, MAP_SHARED, fd, offset - (off_t)before);
    int result = -1;
    if (map != MAP_FAILED) { /* the pages are never accessed: a file that is truncated now does no harm */
        if (mincore(map, mapped, states) == 0) {
            result = 1;
            for (size_t number = 0; number < pages; number++)
                result &= states[number];
        }
        int error = errno;
        munmap(map, mapped);
        errno = error;
    }
    free(states);
    return result;
}

static PyObject *is_cached(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    long long offset;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "iLn", &fd, &offset, &length))
        return NULL;
    if (offset < 0 || length <= 0 || offset > INT64_MAX - length) {
        PyErr_SetString(PyExc_ValueError, "invalid range of a file");
        return NULL;
    }
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = page_cache_has(fd, offset, (size_t)length);
    Py_END_ALLOW_THREADS
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyBool_FromLong(result & 1);
}

PyMethodDef page_cache_functions[] = {
    {"is_cached", is_cached, METH_VARARGS, "Return True if the page cache has all pages of a range of a file."},
    {NULL, NULL, 0, NULL},
};
