#include "file_table.h"

#include <stdlib.h>
#include <string.h>

void file_table_init(file_table *table)
{
    memset(table, 0, sizeof *table);
    pthread_rwlock_init(&table->lock, NULL);
}

static void file_free(open_file *file)
{
    if (file != NULL) {
        free(file->segments);
        free(file->areas);
        free(file);
    }
}

void file_table_destroy(file_table *table)
{
    for (int number = 0; number < FILE_BUCKETS; number++) {
        for (open_file *file = table->buckets[number], *next; file != NULL; file = next) {
            next = file->next;
            file_free(file);
        }
    }
    pthread_rwlock_destroy(&table->lock);
}

/* Return the link to a file, or the link at the end of its bucket. The caller holds the lock. */
static open_file **find_link(file_table *table, uint64_t inode)
{
    uint64_t number = inode * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads consecutive numbers */
    open_file **link = &table->buckets[(number ^ number >> 32) % FILE_BUCKETS];
    while (*link != NULL && (*link)->inode != inode)
        link = &(*link)->next;
    return link;
}

/* Add a copy of *file*, and free its members if the file is open already or there is no memory. */
static bool add(file_table *table, const open_file *file)
{
    open_file *added = malloc(sizeof *added);
    if (added == NULL) {
        free(file->segments);
        free(file->areas);
        return false;
    }
    *added = *file;
    pthread_rwlock_wrlock(&table->lock);
    open_file **link = find_link(table, file->inode);
    if (*link == NULL) {
        *link = added;
        added = NULL;
    }
    pthread_rwlock_unlock(&table->lock);
    file_free(added);
    return true;
}

bool file_table_add_disk(file_table *table, uint64_t inode, uint64_t size, uint32_t block_size)
{
    return add(table, &(open_file){.inode = inode, .size = size, .block_size = block_size});
}

bool file_table_add_slice(file_table *table, uint64_t inode, slice_segment *segments, size_t count, disk_area *areas)
{
    uint64_t size = count == 0 ? 0 : segments[count - 1].start + segments[count - 1].length;
    return add(table, &(open_file){
        .inode = inode, .size = size, .segments = segments, .segment_count = count, .areas = areas});
}

bool file_table_has(file_table *table, uint64_t inode)
{
    pthread_rwlock_rdlock(&table->lock);
    bool is_open = *find_link(table, inode) != NULL;
    pthread_rwlock_unlock(&table->lock);
    return is_open;
}

void file_table_drop(file_table *table, uint64_t inode)
{
    pthread_rwlock_wrlock(&table->lock);
    open_file **link = find_link(table, inode), *file = *link;
    if (file != NULL)
        *link = file->next;
    pthread_rwlock_unlock(&table->lock);
    file_free(file);
}

/* Return the piece of a slice at *offset*, which is before its end. */
static file_piece piece_of(const open_file *slice, uint64_t offset)
{
    size_t low = 0, high = slice->segment_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (slice->segments[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    const slice_segment *segment = &slice->segments[low];
    const disk_area *area = &slice->areas[segment->first_area];
    uint64_t within = offset - segment->start, length = segment->length - within;
    if (segment->area_count > 1) {
        uint64_t stripe = within / segment->stripe_bytes, rest = within % segment->stripe_bytes;
        area += stripe % segment->area_count;
        within = stripe / segment->area_count * segment->stripe_bytes + rest;
        if (length > segment->stripe_bytes - rest)
            length = segment->stripe_bytes - rest;
    }
    return (file_piece){area->disk, area->offset + within, length, 0};
}

file_status file_table_find(file_table *table, uint64_t inode, uint64_t offset, uint64_t *size, file_piece *piece)
{
    file_status status = FILE_UNKNOWN;
    pthread_rwlock_rdlock(&table->lock);
    open_file *file = *find_link(table, inode);
    if (file != NULL) {
        *size = file->size;
        status = offset < file->size ? FILE_FOUND : FILE_END;
    }
    if (status == FILE_FOUND && file->segments == NULL) {
        *piece = (file_piece){inode, offset, file->size - offset, file->block_size};
    } else if (status == FILE_FOUND) {
        *piece = piece_of(file, offset);
        if (piece->disk != NO_DISK) {
            open_file *disk = *find_link(table, piece->disk);
            if (disk == NULL || piece->offset >= disk->size || piece->length > disk->size - piece->offset)
                status = FILE_UNKNOWN;
            else
                piece->block_size = disk->block_size;
        }
    }
    pthread_rwlock_unlock(&table->lock);
    return status;
}
