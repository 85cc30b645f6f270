/* Open pack files, shared by reference counts. */
#ifndef CBTFS_PACK_FILE_H
#define CBTFS_PACK_FILE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "aead.h"

enum { EXTENT_BYTES = 1 << 20, EXTENT_WORDS = 64 }; /* 64 words of 64 bits: 4 GiB, the maximum of a pack */

/* The descriptor of a pack. The last reference closes it. */
typedef struct pack_file {
    atomic_int references;
    int fd;
    _Atomic(const pack_key *) key; /* of the chunks, set once; NULL: the pack is not encrypted, or cannot be read */
    bool is_partial;        /* only the extents in *present* are in the file */
    uint64_t device, inode; /* of a partial file */
    _Atomic uint64_t present[EXTENT_WORDS];
    struct pack_file *previous, *next; /* list of all open pack files */
} pack_file;

/* Take ownership of *fd*; return the first reference, or NULL. A partial file has no extents at first. */
pack_file *pack_file_new(int fd, bool is_partial);
pack_file *pack_file_hold(pack_file *file);
/* Drop a reference. NULL is allowed. */
void pack_file_drop(pack_file *file);
/* Copy the key of the chunks, unless the file has one. Return false if there is no memory. */
bool pack_file_set_key(pack_file *file, const uint8_t bytes[sizeof(pack_key)]);
/* Record that extents [first, first + count) are in the file, or are not, in all pack files of the same file. */
void pack_file_set_extents(pack_file *file, uint32_t first, uint32_t count, bool are_present);
/* Return true if the bytes [offset, offset + length) are in the file. */
bool pack_file_has(const pack_file *file, uint64_t offset, uint32_t length);
/* Return the number of open pack files. */
int pack_files_open(void);
/* Return true if an open pack was deleted. The file system frees its space only when it is closed. */
bool pack_files_deleted(void);

#endif
