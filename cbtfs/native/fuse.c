/* The request loop of /dev/fuse. The protocol is version 7 of linux/fuse.h. */
#include "fuse.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "seek.h"

enum {
    REQUEST_BYTES = MAX_READ_BYTES + 4096, /* the kernel requires space for its largest write request */
    MAX_LISTING = 64 << 10,                /* the socket buffer must hold the reply */
    MAX_PARTS = MAX_READ_BYTES / 4096 + 2,
};

static const _Alignas(MEMORY_PAGE) uint8_t zeros[1 << 16];

bool request_buffers_init(request_buffers *buffers)
{
    buffers->request = malloc(REQUEST_BYTES);
    buffers->data = aligned_alloc(MEMORY_PAGE, MAX_READ_BYTES);
    return buffers->request != NULL && buffers->data != NULL;
}

void request_buffers_destroy(request_buffers *buffers)
{
    free(buffers->request);
    free(buffers->data);
}

/* Return true if *error* means that the file system is unmounted. */
static bool is_unmounted(int error)
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
    /* ENOENT: the request was interrupted. After another error the request may still be pending: fail it. */
    if (done < 0 && errno != ENOENT && !is_unmounted(errno)) {
        failed.len = sizeof failed;
        failed.error = -EIO;
        done = write(requests->device, &failed, sizeof failed);
    }
}

void requests_reply(requests *requests, uint64_t unique, const void *data, size_t length, int error)
{
    if (error < 0 || error >= MAX_ERRNO) /* the kernel would reject the reply, and the request would hang */
        error = EIO;
    struct fuse_out_header head = {.len = sizeof head + length, .error = -error, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    write_reply(requests, parts, data == NULL ? 1 : 2);
}

/* The parts of a reply: they refer to the thread's buffer, to the cache, or to zeros. */
typedef struct {
    struct iovec parts[MAX_PARTS];
    int count;
    cache_entry *pinned[MAX_PARTS];
    int pinned_count;
} read_reply;

static bool add_part(read_reply *reply, const uint8_t *data, size_t length)
{
    struct iovec *last = &reply->parts[reply->count - 1];
    if ((const uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += length;
        return true;
    }
    if (reply->count == MAX_PARTS)
        return false;
    reply->parts[reply->count++] = (struct iovec){(void *)data, length};
    return true;
}

static bool add_zeros(read_reply *reply, size_t length)
{
    while (length > 0) {
        size_t count = length < sizeof zeros ? length : sizeof zeros;
        if (!add_part(reply, zeros, count))
            return false;
        length -= count;
    }
    return true;
}

/* Add the bytes of one leaf. Return READ_NO_FILE if Python must attach a pack first. */
static read_status add_leaf(requests *requests, leaf *leaf, uint32_t block_size, uint64_t offset, uint32_t length,
                               uint8_t *buffer, read_reply *reply)
{
    while (length > 0) {
        uint32_t within = offset % block_size, count = block_size - within;
        location *location = &leaf->locations[offset / block_size % FANOUT];
        if (count > length)
            count = length;
        if (!location->is_data) {
            if (!add_zeros(reply, count))
                return READ_FAILED;
        } else {
            chunk_bytes bytes;
            if (location->plain != block_size)
                return READ_FAILED;
            read_status status = chunk_read(requests->reader, location, within, count, buffer, &bytes);
            if (status != READ_OK)
                return status;
            if (bytes.pinned != NULL && reply->pinned_count == MAX_PARTS) { /* adjacent pieces share a part */
                chunk_cache_unpin(&requests->reader->cache, bytes.pinned);
                return READ_FAILED;
            }
            if (bytes.pinned != NULL)
                reply->pinned[reply->pinned_count++] = bytes.pinned;
            if (!add_part(reply, bytes.data, count))
                return READ_FAILED;
        }
        buffer += count, offset += count, length -= count;
    }
    return READ_OK;
}

/* Add the bytes of all leaves. Return READ_NO_FILE if Python must find a leaf or attach a pack first. */
static read_status add_leaves(requests *requests, uint64_t disk, uint32_t block_size, uint64_t offset, uint32_t length,
                              uint8_t *buffer, read_reply *reply)
{
    uint64_t leaf_bytes = (uint64_t)block_size * FANOUT;
    read_status status = READ_OK;
    while (length > 0 && status == READ_OK) {
        uint64_t left = leaf_bytes - offset % leaf_bytes;
        uint32_t count = length < left ? length : left;
        leaf *leaf;
        if (!leaf_table_find(&requests->leaves, disk, offset / leaf_bytes, &leaf))
            return READ_NO_FILE;
        if (leaf == NULL)
            status = add_zeros(reply, count) ? READ_OK : READ_FAILED;
        else
            status = add_leaf(requests, leaf, block_size, offset, count, buffer, reply);
        leaf_drop(leaf);
        buffer += count, offset += count, length -= count;
    }
    return status;
}

/* Add *length* bytes at *offset* of a file; *piece* is the piece at *offset*. */
static read_status add_pieces(requests *requests, uint64_t inode, file_piece *piece, uint64_t offset, uint32_t length,
                              uint8_t *buffer, read_reply *reply)
{
    for (;;) {
        uint64_t size;
        uint32_t count = length < piece->length ? length : piece->length;
        read_status status = piece->disk == NO_DISK
            ? (add_zeros(reply, count) ? READ_OK : READ_FAILED)
            : add_leaves(requests, piece->disk, piece->block_size, piece->offset, count, buffer, reply);
        buffer += count, offset += count, length -= count;
        if (status != READ_OK || length == 0)
            return status;
        if (file_table_find(&requests->files, inode, offset, &size, piece) != FILE_FOUND)
            return READ_NO_FILE;
    }
}

read_status requests_try_read(requests *requests, request_buffers *buffers, const fuse_read *read, bool *is_answered)
{
    uint64_t size;
    uint32_t length = read->length;
    file_piece piece;
    *is_answered = false;
    file_status found = file_table_find(&requests->files, read->inode, read->offset, &size, &piece);
    if (found == FILE_UNKNOWN)
        return READ_NO_FILE;
    if (found == FILE_END)
        length = 0;
    else if (length > size - read->offset)
        length = size - read->offset;
    if (length > MAX_READ_BYTES)
        return READ_FAILED;
    struct fuse_out_header head = {.len = sizeof head + length, .unique = read->unique};
    read_reply reply;
    reply.parts[0] = (struct iovec){&head, sizeof head};
    reply.count = 1;
    reply.pinned_count = 0;
    read_status status = length == 0
        ? READ_OK
        : add_pieces(requests, read->inode, &piece, read->offset, length, buffers->data, &reply);
    if (status == READ_OK) {
        write_reply(requests, reply.parts, reply.count);
        *is_answered = true;
    }
    for (int number = 0; number < reply.pinned_count; number++)
        chunk_cache_unpin(&requests->reader->cache, reply.pinned[number]);
    return status;
}

/* Forward a request to pyfuse3. Return false after pyfuse3 has closed its end of the socket. */
static bool forward(requests *requests, uint8_t *request, size_t length)
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
    if (head.opcode != FUSE_FORGET && head.opcode != FUSE_BATCH_FORGET) /* these have no reply */
        requests_reply(requests, head.unique, NULL, 0, errno);
    return true;
}

/* Copy the arguments of a request. Return false if it is too short. */
static bool copy_arguments(const request_buffers *buffers, size_t length, void *arguments, size_t expected)
{
    if (length < sizeof(struct fuse_in_header) + expected)
        return false;
    memcpy(arguments, buffers->request + sizeof(struct fuse_in_header), expected);
    return true;
}

next_status requests_next(requests *requests, request_buffers *buffers, fuse_read *pending_read,
                          fuse_seek *pending_seek)
{
    for (;;) {
        request_wait_poll(&requests->wait, requests->device);
        ssize_t length = read(requests->device, buffers->request, REQUEST_BYTES);
        if (length < 0) {
            if (errno == EINTR || errno == EAGAIN || errno == ENOENT) /* ENOENT: the request was interrupted */
                continue;
            return is_unmounted(errno) ? NEXT_ENDED : NEXT_FAILED;
        }
        request_wait_note(&requests->wait);
        struct fuse_in_header head;
        if (length < (ssize_t)sizeof head)
            return NEXT_FAILED;
        memcpy(&head, buffers->request, sizeof head);
        if (head.opcode == FUSE_INTERRUPT) /* ignored: every request is answered soon */
            continue;
        if (head.opcode == FUSE_READ) {
            struct fuse_read_in in;
            bool is_answered;
            if (!copy_arguments(buffers, length, &in, sizeof in))
                return NEXT_FAILED;
            *pending_read = (fuse_read){head.unique, head.nodeid, in.offset, in.size};
            requests_try_read(requests, buffers, pending_read, &is_answered);
            if (!is_answered)
                return NEXT_READ;
        } else if (head.opcode == FUSE_LSEEK) {
            struct fuse_lseek_in in;
            if (!copy_arguments(buffers, length, &in, sizeof in))
                return NEXT_FAILED;
            *pending_seek = (fuse_seek){head.unique, head.nodeid, in.offset, in.offset, in.whence};
            if (!requests_try_seek(requests, pending_seek))
                return NEXT_SEEK;
        } else if (!forward(requests, buffers->request, length)) {
            return NEXT_ENDED;
        }
    }
}

next_status requests_forward_replies(requests *requests, request_buffers *buffers)
{
    for (;;) {
        ssize_t length = recv(requests->session, buffers->request, REQUEST_BYTES, 0);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            return length == 0 ? NEXT_ENDED : NEXT_FAILED;
        struct iovec part = {buffers->request, length};
        write_reply(requests, &part, 1);
    }
}
