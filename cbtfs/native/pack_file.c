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

pack_file *pack_file_new(int fd)
{
    pack_file *file = malloc(sizeof *file);
    if (file == NULL)
        return NULL;
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
