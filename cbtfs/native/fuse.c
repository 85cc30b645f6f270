/* The loop around /dev/fuse. The protocol is that of linux/fuse.h, version 7. */
#include "fuse.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    REQUEST_BYTES = MAX_READ_BYTES + 4096, /* what the kernel asks for, with the largest write it could send */
    MAX_LISTING = 64 << 10,                /* a reply through the socket must fit its buffer */
    MAX_PARTS = MAX_READ_BYTES / 4096 + 2,
    MAX_ERRNO = 512,
};

static const _Alignas(MEMORY_PAGE) uint8_t zeros[1 << 16];

bool request_memory_init(request_memory *memory)
{
    memory->request = malloc(REQUEST_BYTES);
    memory->data = aligned_alloc(MEMORY_PAGE, MAX_READ_BYTES);
    return memory->request != NULL && memory->data != NULL;
}

void request_memory_end(request_memory *memory)
{
    free(memory->request);
    free(memory->data);
}

static bool has_ended(int error)
{
    return error == ENODEV || error == ECONNABORTED || error == EBADF;
}

static void write_reply(requests *requests, struct iovec *parts, int count)
{
    struct fuse_out_header failed = *(const struct fuse_out_header *)parts->iov_base;
    ssize_t done;
    do
        done = writev(requests->device, parts, count);
    while (done < 0 && errno == EINTR);
    /* ENOENT: nobody waits any more. After other errors the request may still stand, and would wait for ever. */
    if (done < 0 && errno != ENOENT && !has_ended(errno)) {
        failed.len = sizeof failed;
        failed.error = -EIO;
        done = write(requests->device, &failed, sizeof failed);
    }
}

void requests_reply(requests *requests, uint64_t unique, const void *data, size_t length, int error)
{
    if (error < 0 || error >= MAX_ERRNO) /* the kernel would refuse it, and go on waiting */
        error = EIO;
    struct fuse_out_header head = {.len = sizeof head + length, .error = -error, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    write_reply(requests, parts, data == NULL ? 1 : 2);
}

/* What a reply is made of: pieces of the thread's memory, of the cache, of zeros. */
typedef struct {
    struct iovec parts[MAX_PARTS];
    int count;
    decoded *pinned[MAX_PARTS];
    int pinned_count;
} gathered;

static bool add_part(gathered *gathered, const uint8_t *data, size_t length)
{
    struct iovec *last = &gathered->parts[gathered->count - 1];
    if ((const uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += length;
        return true;
    }
    if (gathered->count == MAX_PARTS)
        return false;
    gathered->parts[gathered->count++] = (struct iovec){(void *)data, length};
    return true;
}

static bool add_zeros(gathered *gathered, size_t length)
{
    while (length > 0) {
        size_t count = length < sizeof zeros ? length : sizeof zeros;
        if (!add_part(gathered, zeros, count))
            return false;
        length -= count;
    }
    return true;
}

/* Gather what one leaf has of the read; READ_NO_FILE where Python has to open a pack first. */
static read_status gather_leaf(requests *requests, leaf *leaf, uint32_t block_size, uint64_t offset, uint32_t length,
                               uint8_t *memory, gathered *gathered)
{
    while (length > 0) {
        uint32_t within = offset % block_size, count = block_size - within;
        place *place = &leaf->places[offset / block_size % FANOUT];
        if (count > length)
            count = length;
        if (!place->is_data) {
            if (!add_zeros(gathered, count))
                return READ_FAILED;
        } else {
            chunk_bytes found;
            if (place->plain != block_size)
                return READ_FAILED;
            read_status status = chunk_read(requests->cache, place, within, count, memory, &found);
            if (status != READ_OK)
                return status;
            if (found.pinned != NULL)
                gathered->pinned[gathered->pinned_count++] = found.pinned;
            if (!add_part(gathered, found.data, count))
                return READ_FAILED;
        }
        memory += count, offset += count, length -= count;
    }
    return READ_OK;
}

static read_status gather(requests *requests, uint64_t inode, uint32_t block_size, uint64_t offset, uint32_t length,
                          uint8_t *memory, gathered *gathered)
{
    uint64_t leaf_bytes = (uint64_t)block_size * FANOUT;
    read_status status = READ_OK;
    while (length > 0 && status == READ_OK) {
        uint64_t left = leaf_bytes - offset % leaf_bytes;
        uint32_t count = length < left ? length : left;
        leaf *leaf;
        if (!leaves_find(&requests->leaves, inode, offset / leaf_bytes, &leaf))
            return READ_NO_FILE;
        if (leaf == NULL)
            status = add_zeros(gathered, count) ? READ_OK : READ_FAILED;
        else
            status = gather_leaf(requests, leaf, block_size, offset, count, memory, gathered);
        leaf_drop(leaf);
        memory += count, offset += count, length -= count;
    }
    return status;
}

read_status requests_try(requests *requests, request_memory *memory, const fuse_read *read, bool *is_answered)
{
    uint64_t size;
    uint32_t block_size, length = read->length;
    *is_answered = false;
    if (!leaves_find_file(&requests->leaves, read->inode, &size, &block_size))
        return READ_NO_FILE;
    if (read->offset >= size)
        length = 0;
    else if (length > size - read->offset)
        length = size - read->offset;
    if (length > MAX_READ_BYTES)
        return READ_FAILED;
    struct fuse_out_header head = {.len = sizeof head + length, .unique = read->unique};
    gathered gathered;
    gathered.parts[0] = (struct iovec){&head, sizeof head};
    gathered.count = 1;
    gathered.pinned_count = 0;
    read_status status = gather(requests, read->inode, block_size, read->offset, length, memory->data, &gathered);
    if (status == READ_OK) {
        write_reply(requests, gathered.parts, gathered.count);
        *is_answered = true;
    }
    for (int number = 0; number < gathered.pinned_count; number++)
        chunk_unpin(requests->cache, gathered.pinned[number]);
    return status;
}

/* Pass a request on to pyfuse3, as it came from the device; false once that has closed its end. */
static bool pass_on(requests *requests, uint8_t *request, size_t length)
{
    struct fuse_in_header head;
    memcpy(&head, request, sizeof head);
    if ((head.opcode == FUSE_READDIR || head.opcode == FUSE_READDIRPLUS)
        && length >= sizeof head + sizeof(struct fuse_read_in)) {
        struct fuse_read_in in;
        memcpy(&in, request + sizeof head, sizeof in);
        if (in.size > MAX_LISTING)
            in.size = MAX_LISTING;
        memcpy(request + sizeof head, &in, sizeof in);
    }
    ssize_t done;
    do
        done = send(requests->session, request, length, MSG_NOSIGNAL);
    while (done < 0 && errno == EINTR);
    if (done == (ssize_t)length)
        return true;
    if (errno == EPIPE || errno == ECONNRESET)
        return false;
    if (head.opcode != FUSE_FORGET && head.opcode != FUSE_BATCH_FORGET) /* those get no reply */
        requests_reply(requests, head.unique, NULL, 0, errno);
    return true;
}

next_status requests_next(requests *requests, request_memory *memory, fuse_read *found)
{
    for (;;) {
        ssize_t length = read(requests->device, memory->request, REQUEST_BYTES);
        if (length < 0) {
            if (errno == EINTR || errno == EAGAIN || errno == ENOENT) /* ENOENT: it was interrupted */
                continue;
            return has_ended(errno) ? NEXT_ENDED : NEXT_FAILED;
        }
        struct fuse_in_header head;
        if (length < (ssize_t)sizeof head)
            return NEXT_FAILED;
        memcpy(&head, memory->request, sizeof head);
        if (head.opcode == FUSE_INTERRUPT) /* every request is answered, and soon: there is nothing to cut short */
            continue;
        if (head.opcode != FUSE_READ) {
            if (!pass_on(requests, memory->request, length))
                return NEXT_ENDED;
            continue;
        }
        struct fuse_read_in in;
        if (length < (ssize_t)(sizeof head + sizeof in))
            return NEXT_FAILED;
        memcpy(&in, memory->request + sizeof head, sizeof in);
        *found = (fuse_read){head.unique, head.nodeid, in.offset, in.size};
        bool is_answered;
        requests_try(requests, memory, found, &is_answered);
        if (!is_answered)
            return NEXT_READ;
    }
}

next_status requests_pass_replies(requests *requests, request_memory *memory)
{
    for (;;) {
        ssize_t length = recv(requests->session, memory->request, REQUEST_BYTES, 0);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            return length == 0 ? NEXT_ENDED : NEXT_FAILED;
        struct iovec part = {memory->request, length};
        write_reply(requests, &part, 1);
    }
}
