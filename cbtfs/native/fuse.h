/* Requests of the FUSE device: reads are answered here, everything else is passed on. */
#ifndef CBTFS_FUSE_H
#define CBTFS_FUSE_H

#include "leaves.h"

enum {
    MAX_READ_BYTES = 1 << 20,
    MEMORY_PAGE = 4096, /* what is aligned to it goes to and from the kernel page by page, in half the steps */
};

/* One read as the kernel asks for it. */
typedef struct {
    uint64_t unique, inode, offset;
    uint32_t length;
} fuse_read;

typedef struct {
    int device;  /* a clone of /dev/fuse */
    int session; /* our end of a socket; pyfuse3 has the other, in place of the device */
    leaves leaves;
    chunk_cache *cache;
} requests;

/* Memory of one thread. */
typedef struct {
    uint8_t *request, *data;
} request_memory;

bool request_memory_init(request_memory *memory);
void request_memory_end(request_memory *memory);

typedef enum {
    NEXT_READ,   /* a read that takes Python to be answered */
    NEXT_ENDED,  /* the file system is unmounted */
    NEXT_FAILED, /* see errno */
} next_status;

/* Answer and pass on requests until one takes Python. */
next_status requests_next(requests *requests, request_memory *memory, fuse_read *read);
/* Answer *read* if all that it takes is known; else why not. */
read_status requests_try(requests *requests, request_memory *memory, const fuse_read *read, bool *is_answered);
/* Answer with bytes, or with an errno where *data* is NULL. */
void requests_reply(requests *requests, uint64_t unique, const void *data, size_t length, int error);
/* Write pyfuse3's replies to the device until it closes the socket. */
next_status requests_pass_replies(requests *requests, request_memory *memory);

#endif
