#define _GNU_SOURCE /* SEEK_DATA, SEEK_HOLE */
#include "seek.h"

#include <errno.h>
#include <linux/fuse.h>
#include <unistd.h>

static void reply_offset(requests *requests, const fuse_seek *seek, uint64_t offset)
{
    struct fuse_lseek_out out = {.offset = offset};
    requests_reply(requests, seek->unique, &out, sizeof out, 0);
}

/* An error reply is a header only: the kernel rejects one with a body, and the program sees EIO. */
static void reply_error(requests *requests, const fuse_seek *seek, int error)
{
    requests_reply(requests, seek->unique, NULL, 0, error);
}

void requests_seek_dense(requests *requests, const fuse_seek *seek, uint64_t size)
{
    if (seek->offset >= size)
        reply_error(requests, seek, ENXIO);
    else
        reply_offset(requests, seek, seek->kind == SEEK_DATA ? seek->offset : size);
}

/* Search a disk from *position* to *end* for data or a hole; advance *position to it, or to *end*, or to the first
 * unknown byte. */
static map_status search_disk(requests *requests, uint64_t inode, uint32_t block_size, bool is_data,
                              uint64_t *position, uint64_t end)
{
    uint64_t end_block = (end - 1) / block_size + 1;
    while (*position < end) {
        uint64_t block = *position / block_size, found;
        map_status status = data_map_search(&requests->map, inode, block, is_data, &found);
        if (status == MAP_UNKNOWN)
            return MAP_UNKNOWN;
        if (found >= end_block)
            *position = end;
        else if (found > block)
            *position = found * block_size;
        if (status == MAP_FOUND && *position < end)
            return MAP_FOUND;
    }
    return MAP_PASSED;
}

bool requests_try_seek(requests *requests, fuse_seek *seek)
{
    uint64_t size;
    uint32_t block_size;
    bool is_data = seek->kind == SEEK_DATA;
    if (!is_data && seek->kind != SEEK_HOLE) {
        reply_error(requests, seek, EINVAL);
        return true;
    }
    if (!leaf_table_find_file(&requests->leaves, seek->inode, &size, &block_size))
        return false;
    if (seek->offset >= size) {
        reply_error(requests, seek, ENXIO);
        return true;
    }
    map_status status = search_disk(requests, seek->inode, block_size, is_data, &seek->position, size);
    if (status == MAP_UNKNOWN)
        return false;
    if (status == MAP_PASSED && is_data)
        reply_error(requests, seek, ENXIO);
    else
        reply_offset(requests, seek, seek->position); /* the end of the file is a hole */
    return true;
}

void requests_seek_bounded(requests *requests, const fuse_seek *seek)
{
    if (seek->position > seek->offset)
        reply_offset(requests, seek, seek->position);
    else
        reply_error(requests, seek, EIO); /* nothing was searched: there is no safe answer */
}
