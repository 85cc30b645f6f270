#include "copy.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { DIRECT_UNIT = 4096 }; /* offsets and lengths of direct writes: the largest logical block size of Linux */

size_t copy_to_memory(chunk_reader *reader, leaf *leaf, uint32_t block_size, uint64_t offset, uint8_t *target,
                      size_t length)
{
    size_t done = 0;
    while (done < length) {
        uint64_t block = (offset + done) / block_size;
        uint32_t within = (offset + done) % block_size, count = block_size - within;
        if (block >= FANOUT)
            break;
        if (count > length - done)
            count = length - done;
        location *location = &leaf->locations[block];
        if (!location->is_data) {
            memset(target + done, 0, count);
        } else {
            chunk_bytes bytes;
            if (location->plain != block_size
                || chunk_read(reader, location, within, count, target + done, &bytes) != READ_OK)
                break;
            if (bytes.pinned != NULL) {
                memcpy(target + done, bytes.data, count);
                chunk_cache_unpin(&reader->cache, bytes.pinned);
            }
        }
        done += count;
    }
    return done;
}

static bool write_exactly(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t done = pwrite(fd, data, length, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return false;
        data += done, length -= done, offset += done;
    }
    return true;
}

/* Write the aligned start of *data* directly, and the rest, or all if the kernel refuses, through the page cache. */
static bool write_run(copy_target *target, const uint8_t *data, size_t length, uint64_t offset)
{
    size_t direct = offset % DIRECT_UNIT == 0 ? length / DIRECT_UNIT * DIRECT_UNIT : 0;
    if (target->direct_fd >= 0 && direct > 0) {
        if (write_exactly(target->direct_fd, data, direct, offset)) {
            data += direct, length -= direct, offset += direct;
        } else if (errno == EINVAL || errno == EOPNOTSUPP) {
            target->direct_fd = -1;
        } else {
            return false;
        }
    }
    return write_exactly(target->fd, data, length, offset);
}

/* Return the end of the run of blocks with data that begins at *start*, at most *end*. */
static uint64_t run_end(const leaf_copy *copy, uint64_t start, uint64_t end)
{
    uint64_t block = start / copy->block_size;
    while (block < FANOUT && copy->leaf->locations[block].is_data && block * copy->block_size < end)
        block++;
    uint64_t last = block * copy->block_size;
    return last < end ? last : end;
}

uint64_t copy_to_file(const leaf_copy *copy, copy_target target, uint64_t start, uint64_t end, int *error)
{
    size_t step = copy->buffer_bytes / copy->block_size * copy->block_size;
    *error = 0;
    while (start < end) {
        uint64_t block = start / copy->block_size, stop = run_end(copy, start, end);
        if (block >= FANOUT)
            break;
        if (stop == start) {
            start = (block + 1) * copy->block_size;
            continue;
        }
        if (stop - start > step)
            stop = start + step;
        size_t done
            = copy_to_memory(copy->reader, copy->leaf, copy->block_size, start, copy->buffer, stop - start);
        if (!write_run(&target, copy->buffer, done, copy->position + start)) {
            *error = errno;
            break;
        }
        start += done;
        if (start < stop)
            break;
    }
    return start < end ? start : end;
}
