#define _GNU_SOURCE /* SEEK_DATA, SEEK_HOLE */
#include "seek.h"

#include <errno.h>
#include <linux/fuse.h>
#include <unistd.h>

/* Pieces of a slice that one seek searches, in about 30 ms: each stripe of a volume is one. */
enum { MAX_PIECES = 1 << 18 };

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

/* Search a piece for data or a hole. Advance *distance* to it, or to the end of the piece, or to the first unknown
 * byte. */
static map_status search_piece(requests *requests, const file_piece *piece, bool is_data, uint64_t *distance)
{
    if (piece->disk == NO_DISK) {
        *distance = is_data ? piece->length : 0;
        return is_data ? MAP_PASSED : MAP_FOUND;
    }
    uint64_t end = piece->offset + piece->length, end_block = (end - 1) / piece->block_size + 1;
    *distance = 0;
    while (*distance < piece->length) {
        uint64_t block = (piece->offset + *distance) / piece->block_size, found;
        map_status status = data_map_search(&requests->map, piece->disk, block, is_data, &found);
        if (status == MAP_UNKNOWN)
            return MAP_UNKNOWN;
        if (found >= end_block)
            *distance = piece->length;
        else if (found > block)
            *distance = found * piece->block_size - piece->offset;
        if (status == MAP_FOUND && *distance < piece->length)
            return MAP_FOUND;
    }
    return MAP_PASSED;
}

bool requests_try_seek(requests *requests, fuse_seek *seek)
{
    bool is_data = seek->kind == SEEK_DATA;
    if (!is_data && seek->kind != SEEK_HOLE) {
        reply_error(requests, seek, EINVAL);
        return true;
    }
    for (int pieces = 0; pieces < MAX_PIECES; pieces++) {
        uint64_t size, distance;
        file_piece piece;
        file_status found = file_table_find(&requests->files, seek->inode, seek->position, &size, &piece);
        if (found == FILE_UNKNOWN)
            return false;
        if (found == FILE_END) {
            if (is_data || seek->offset >= size)
                reply_error(requests, seek, ENXIO);
            else
                reply_offset(requests, seek, size); /* the end of a file is a hole */
            return true;
        }
        map_status status = search_piece(requests, &piece, is_data, &distance);
        seek->position += distance;
        if (status == MAP_UNKNOWN)
            return false;
        if (status == MAP_FOUND) {
            reply_offset(requests, seek, seek->position);
            return true;
        }
    }
    requests_seek_bounded(requests, seek);
    return true;
}

void requests_seek_bounded(requests *requests, const fuse_seek *seek)
{
    if (seek->position > seek->offset)
        reply_offset(requests, seek, seek->position);
    else
        reply_error(requests, seek, EIO); /* nothing was searched: there is no safe answer */
}
