/* Files of packs, and leaves that hold them: what threads share lives by counts of references. */
#include "chunk.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pack files */

static atomic_int files_open;
static pack_file *files;
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;

pack_file *pack_file_new(int fd)
{
    pack_file *file = malloc(sizeof *file);
    if (file == NULL)
        return NULL;
    atomic_init(&file->references, 1);
    file->fd = fd;
    file->before = NULL;
    atomic_fetch_add(&files_open, 1);
    pthread_mutex_lock(&files_lock);
    file->next = files;
    if (files != NULL)
        files->before = file;
    files = file;
    pthread_mutex_unlock(&files_lock);
    return file;
}

void pack_file_drop(pack_file *file)
{
    if (file == NULL || atomic_fetch_sub(&file->references, 1) != 1)
        return;
    pthread_mutex_lock(&files_lock);
    *(file->before ? &file->before->next : &files) = file->next;
    if (file->next != NULL)
        file->next->before = file->before;
    pthread_mutex_unlock(&files_lock);
    close(file->fd); /* only now: pack_files_removed() looks at what is listed */
    atomic_fetch_sub(&files_open, 1);
    free(file);
}

int pack_files_open(void)
{
    return atomic_load(&files_open);
}

bool pack_files_removed(void)
{
    bool is_found = false;
    pthread_mutex_lock(&files_lock);
    for (const pack_file *file = files; file != NULL && !is_found; file = file->next) {
        struct stat facts;
        is_found = fstat(file->fd, &facts) == 0 && facts.st_nlink == 0;
    }
    pthread_mutex_unlock(&files_lock);
    return is_found;
}

/* Leaves */

leaf *leaf_new(void)
{
    leaf *made = calloc(1, sizeof *made);
    if (made != NULL)
        atomic_init(&made->references, 1);
    return made;
}

leaf *leaf_hold(leaf *leaf)
{
    atomic_fetch_add(&leaf->references, 1);
    return leaf;
}

void leaf_drop(leaf *leaf)
{
    if (leaf == NULL || atomic_fetch_sub(&leaf->references, 1) != 1)
        return;
    for (int slot = 0; slot < FANOUT; slot++) {
        pack_file_drop(atomic_load(&leaf->places[slot].file));
        free(atomic_load(&leaf->places[slot].table));
    }
    free(leaf);
}
