/* Python types that the files of this directory share. */
#ifndef CBTFS_TYPES_H
#define CBTFS_TYPES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "chunk.h"

typedef struct {
    PyObject_HEAD
    leaf *leaf;
} LeafObject;

typedef struct {
    PyObject_HEAD
    chunk_reader reader;
    PyObject *digest_of;
} ChunksObject;

extern PyTypeObject LeafType, ChunksType, RequestsType;
extern PyMethodDef digest_functions[], node_functions[], page_cache_functions[];

#endif
