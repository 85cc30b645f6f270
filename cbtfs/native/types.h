/* The types that Python sees, as the files of this folder share them. */
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
    chunk_cache cache;
    PyObject *digest_of;
    bool is_ready;
} ChunksObject;

extern PyTypeObject LeafType, ChunksType, RequestsType;

#endif
