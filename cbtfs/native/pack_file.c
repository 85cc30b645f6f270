#include "pack_file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "secret.h"

static atomic_int open_count;
static pack_file *first_file;
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;

pack_file *pack_file_new(int fd, bool is_partial)
{
    struct stat status;
    pack_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return NULL;
    file->is_partial = is_partial;
    if (is_partial && fstat(fd, &status) == 0)
        file->device = status.st_dev, file->inode = status.st_ino;
    atomic_init(&file->references, 1);
    file->fd = fd;
    atomic_init(&file->key, NULL);
    file->previous = NULL;
    atomic_fetch_add(&open_count, 1);
    pthread_mutex_lock(&list_lock);
    file->next = first_file;
    if (first_file != NULL)
        first_file->previous = file;
    first_file = file;
    pthread_mutex_unlock(&list_lock);
    return file;
}

bool pack_file_set_key(pack_file *file, const uint8_t bytes[sizeof(pack_key)])
{
    pack_key *key = secret_new(sizeof *key);
    if (key == NULL)
        return false;
    memcpy(key, bytes, sizeof *key);
    const pack_key *existing = NULL;
    if (!atomic_compare_exchange_strong(&file->key, &existing, key))
        secret_free(key);
    return true;
}

pack_file *pack_file_hold(pack_file *file)
{
    atomic_fetch_add(&file->references, 1);
    return file;
}

void pack_file_drop(pack_file *file)
{
    if (file == NULL || atomic_fetch_sub(&file->references, 1) != 1)
        return;
    pthread_mutex_lock(&list_lock);
    *(file->previous ? &file->previous->next : &first_file) = file->next;
    if (file->next != NULL)
        file->next->previous = file->previous;
    pthread_mutex_unlock(&list_lock);
    close(file->fd); /* after the removal from the list: pack_files_deleted() calls fstat() on listed descriptors */
    atomic_fetch_sub(&open_count, 1);
    secret_free((void *)atomic_load(&file->key));
    free(file);
}

void pack_file_set_extents(pack_file *file, uint32_t first, uint32_t count, bool are_present)
{
    pthread_mutex_lock(&list_lock);
    for (pack_file *other = first_file; other != NULL; other = other->next) {
        if (!other->is_partial || other->device != file->device || other->inode != file->inode)
            continue;
        for (uint32_t extent = first; extent < first + count && extent < 64 * EXTENT_WORDS; extent++) {
            uint64_t bit = (uint64_t)1 << extent % 64;
            if (are_present)
                atomic_fetch_or(&other->present[extent / 64], bit);
            else
                atomic_fetch_and(&other->present[extent / 64], ~bit);
        }
    }
    pthread_mutex_unlock(&list_lock);
}

bool pack_file_has(const pack_file *file, uint64_t offset, uint32_t length)
{
    if (!file->is_partial || length == 0)
        return true;
    uint64_t last = (offset + length - 1) / EXTENT_BYTES;
    for (uint64_t extent = offset / EXTENT_BYTES; extent <= last; extent++) {
        if (extent >= 64 * EXTENT_WORDS)
            return false;
        if (!(atomic_load(&file->present[extent / 64]) >> extent % 64 & 1))
            return false;
    }
    return true;
}

int pack_files_open(void)
{
    return atomic_load(&open_count);
}

bool pack_files_deleted(void)
{
    bool is_deleted = false;
    pthread_mutex_lock(&list_lock);
    for (const pack_file *file = first_file; file != NULL && !is_deleted; file = file->next) {
        struct stat status;
        is_deleted = fstat(file->fd, &status) == 0 && status.st_nlink == 0;
    }
    pthread_mutex_unlock(&list_lock);
    return is_deleted;
}
