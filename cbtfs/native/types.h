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
    uint8_t *key; /* of digests, in secret memory; NULL if they are not keyed */
} ChunksObject;

extern PyTypeObject LeafType, ChunksType, RequestsType;
extern PyMethodDef compare_functions[], digest_functions[], node_functions[], page_cache_functions[], sealing_functions[];

bool digest_key(PyObject *object, uint8_t **key);

#endif
