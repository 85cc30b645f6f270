/* Python functions that decode nodes of the catalog. _core.pyi declares their signatures, and
 * cbtfs/store/catalog/records.py has the encoding. */
#include "types.h"

#include <libdeflate.h>

enum {
    HEAD_BYTES = 24, /* two bitmaps and the least id */
    KEY_BYTES = 8,
    CRC_BYTES = 4,
    CRC_RESIDUE = 0x2144df1c, /* CRC-32 of bytes that end in their own CRC-32 */
};

static const uint64_t MAX_NUMBER = UINT64_C(1) << 62;

static uint64_t get_number(const uint8_t *bytes, int width)
{
    uint64_t number = 0;
    for (int at = 0; at < width; at++)
        number |= (uint64_t)bytes[at] << 8 * at;
    return number;
}

/* Decode the ids of the children of a node, 0 for null. Return false if the entry is corrupt. */
static bool decode_ids(const uint8_t *payload, size_t length, uint64_t ids[FANOUT])
{
    if (length < HEAD_BYTES)
        return false;
    uint64_t bits = get_number(payload, 8), breaks = get_number(payload + 8, 8), least = get_number(payload + 16, 8);
    int count = __builtin_popcountll(bits), runs = __builtin_popcountll(breaks);
    size_t width = (length - HEAD_BYTES) / (runs > 0 ? runs : 1);
    if (runs > 0 && width != 1 && width != 2 && width != 4 && width != 8)
        return false;
    if ((count < FANOUT && breaks >> count != 0) || (bits != 0 && (breaks & 1) == 0) || least > MAX_NUMBER - FANOUT)
        return false;
    const uint8_t *distance = payload + HEAD_BYTES;
    uint64_t next = 0;
    for (int slot = 0, number = 0; slot < FANOUT; slot++) {
        ids[slot] = 0;
        if ((bits >> slot & 1) == 0)
            continue;
        if (breaks >> number & 1) {
            uint64_t beyond = get_number(distance, width);
            if (beyond > INT64_MAX - FANOUT - least)
                return false;
            next = least + beyond;
            distance += width;
        }
        ids[slot] = next++;
        number++;
    }
    return true;
}

static PyObject *node_children(PyObject *module, PyObject *payload)
{
    (void)module;
    uint64_t ids[FANOUT];
    char *data;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(payload, &data, &length) < 0)
        return NULL;
    if (!decode_ids((const uint8_t *)data, length, ids)) {
        PyErr_SetString(PyExc_ValueError, "corrupt children of a node");
        return NULL;
    }
    PyObject *children = PyTuple_New(FANOUT);
    for (int slot = 0; children != NULL && slot < FANOUT; slot++) {
        PyObject *number = PyLong_FromUnsignedLongLong(ids[slot]);
        if (number == NULL)
            Py_CLEAR(children);
        else
            PyTuple_SET_ITEM(children, slot, number);
    }
    return children;
}

/* Return true if *item* is a tuple of a key and a value in bytes. */
static bool is_item(PyObject *item)
{
    return PyTuple_Check(item) && PyTuple_GET_SIZE(item) == 2 && PyBytes_Check(PyTuple_GET_ITEM(item, 0))
        && PyBytes_GET_SIZE(PyTuple_GET_ITEM(item, 0)) == KEY_BYTES && PyBytes_Check(PyTuple_GET_ITEM(item, 1));
}

/* Return the payload of *item*, or NULL with an exception if its checksum does not match. */
static PyObject *open_item(PyObject *item, uint32_t seed)
{
    PyObject *key = PyTuple_GET_ITEM(item, 0), *value = PyTuple_GET_ITEM(item, 1);
    uint32_t crc = libdeflate_crc32(seed, PyBytes_AS_STRING(key), KEY_BYTES);
    crc = libdeflate_crc32(crc, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    if (PyBytes_GET_SIZE(value) != LOCATION_BYTES + CRC_BYTES || crc != CRC_RESIDUE) {
        PyErr_SetString(PyExc_ValueError, "an entry fails its checksum");
        return NULL;
    }
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), LOCATION_BYTES);
}

/* Return the payload of *item* if it is that of child *id*, else NULL with an exception. */
static PyObject *entry_of(PyObject *item, uint64_t id, uint32_t seed)
{
    uint64_t key = 0;
    if (item != NULL && is_item(item))
        memcpy(&key, PyBytes_AS_STRING(PyTuple_GET_ITEM(item, 0)), sizeof key);
    if (key != id) {
        PyErr_SetString(PyExc_KeyError, "a child has no entry");
        return NULL;
    }
    return open_item(item, seed);
}

/* Fill *entries* and *content* from the items of the children that are not null; *known* has None, or the entry, which
 * has no item. Return false with an exception if one is missing. */
static bool fill_node(
    PyObject *children, PyObject *known, PyObject *items, uint32_t seed, PyObject *entries, uint8_t *content)
{
    Py_ssize_t at = 0;
    for (int slot = 0; slot < FANOUT; slot++, content += DIGEST_BYTES) {
        uint64_t id = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(children, slot));
        if (PyErr_Occurred())
            return false;
        if (id == 0) {
            PyTuple_SET_ITEM(entries, slot, Py_NewRef(Py_None));
            memset(content, 0, DIGEST_BYTES);
            continue;
        }
        PyObject *entry = PyTuple_GET_ITEM(known, slot);
        if (PyBytes_Check(entry) && PyBytes_GET_SIZE(entry) == LOCATION_BYTES)
            Py_INCREF(entry);
        else
            entry = entry_of(at < PyList_GET_SIZE(items) ? PyList_GET_ITEM(items, at++) : NULL, id, seed);
        if (entry == NULL)
            return false;
        PyTuple_SET_ITEM(entries, slot, entry);
        memcpy(content, PyBytes_AS_STRING(entry) + LOCATION_BYTES - DIGEST_BYTES, DIGEST_BYTES);
    }
    return true;
}

static PyObject *node_entries(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *children, *known, *items;
    unsigned int seed;
    uint8_t content[FANOUT * DIGEST_BYTES];
    if (!PyArg_ParseTuple(args, "O!O!O!I", &PyTuple_Type, &children, &PyTuple_Type, &known, &PyList_Type, &items, &seed))
        return NULL;
    if (PyTuple_GET_SIZE(children) != FANOUT || PyTuple_GET_SIZE(known) != FANOUT) {
        PyErr_SetString(PyExc_ValueError, "a node has 64 children");
        return NULL;
    }
    PyObject *entries = PyTuple_New(FANOUT);
    if (entries == NULL)
        return NULL;
    if (!fill_node(children, known, items, seed, entries, content)) {
        Py_DECREF(entries);
        return NULL;
    }
    return Py_BuildValue("Ny#", entries, content, (Py_ssize_t)sizeof content);
}

PyMethodDef node_functions[] = {
    {"node_children", node_children, METH_O, "Return the ids of the 64 children of a node, 0 for null."},
    {"node_entries", node_entries, METH_VARARGS, "Return the verified entries of the children of a node."},
    {NULL, NULL, 0, NULL},
};
