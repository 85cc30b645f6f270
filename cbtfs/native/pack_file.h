/* Open pack files, shared by reference counts. */
#ifndef CBTFS_PACK_FILE_H
#define CBTFS_PACK_FILE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "aead.h"

/* The descriptor of a pack. The last reference closes it. */
typedef struct pack_file {
    atomic_int references;
    int fd;
    _Atomic(const pack_key *) key; /* of the chunks, set once; NULL: the pack is not encrypted, or cannot be read */
    struct pack_file *previous, *next; /* list of all open pack files */
} pack_file;

/* Take ownership of *fd*; return the first reference, or NULL. */
pack_file *pack_file_new(int fd);
pack_file *pack_file_hold(pack_file *file);
/* Drop a reference. NULL is allowed. */
void pack_file_drop(pack_file *file);
/* Copy the key of the chunks, unless the file has one. Return false if there is no memory. */
bool pack_file_set_key(pack_file *file, const uint8_t bytes[sizeof(pack_key)]);
/* Return the number of open pack files. */
int pack_files_open(void);
/* Return true if an open pack was deleted. The file system frees its space only when it is closed. */
bool pack_files_deleted(void);

#endif
