/* Requests of the FUSE device: this code answers reads and seeks, and forwards all other requests to pyfuse3. */
#ifndef CBTFS_FUSE_H
#define CBTFS_FUSE_H

#include "chunk.h"
#include "data_map.h"
#include "file_table.h"
#include "leaf_table.h"
#include "wait.h"

enum {
    MAX_READ_BYTES = 1 << 20,
    MAX_ERRNO = 512, /* the kernel rejects a reply with this errno or a greater one */
    MEMORY_PAGE = 4096, /* the kernel copies aligned memory page by page, in half the steps */
};

/* One read request of the kernel. */
typedef struct {
    uint64_t unique, inode, offset;
    uint32_t length;
} fuse_read;

/* One request of the kernel for data or a hole at *offset* or later. */
typedef struct {
    uint64_t unique, inode, offset;
    uint64_t position; /* [offset, position) is searched */
    uint32_t kind; /* SEEK_DATA or SEEK_HOLE */
} fuse_seek;

typedef struct {
    int device;  /* a clone of /dev/fuse */
    int session; /* one end of a socket pair; pyfuse3 uses the other end as its device */
    file_table files;
    leaf_table leaves;
    data_map map;
    chunk_reader *reader;
    request_wait wait;
} requests;

/* Buffers of one thread. */
typedef struct {
    uint8_t *request, *data;
} request_buffers;

/* Return false if there is no memory; request_buffers_destroy() is required in either case. */
bool request_buffers_init(request_buffers *buffers);
void request_buffers_destroy(request_buffers *buffers);

typedef enum {
    NEXT_READ,   /* Python must answer a read */
    NEXT_SEEK,   /* Python must answer a seek */
    NEXT_ENDED,  /* the file system is unmounted */
    NEXT_FAILED, /* see errno */
} next_status;

/* Answer or forward requests until Python must answer one, *read* or *seek*. */
next_status requests_next(requests *requests, request_buffers *buffers, fuse_read *read, fuse_seek *seek);
/* Answer *read* if its leaves are known and their packs are attached. Otherwise return the reason. */
read_status requests_try_read(requests *requests, request_buffers *buffers, const fuse_read *read, bool *is_answered);
/* Reply with *data*, or with the errno *error* if *data* is NULL. */
void requests_reply(requests *requests, uint64_t unique, const void *data, size_t length, int error);
/* Write pyfuse3's replies to the device until pyfuse3 closes the socket. */
next_status requests_forward_replies(requests *requests, request_buffers *buffers);

#endif
