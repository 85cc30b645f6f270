/* The leaves of open files: a set-associative table, so that it is bounded without a list to keep. */
#include "leaves.h"

#include <stdlib.h>
#include <string.h>

enum { NO_INODE = 0 }; /* FUSE has none of that number */

void leaves_init(leaves *leaves)
{
    memset(leaves, 0, sizeof *leaves);
    pthread_rwlock_init(&leaves->files_lock, NULL);
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_init(&leaves->sets[number].lock, NULL);
}

void leaves_end(leaves *leaves)
{
    leaves_clear(leaves);
    for (int number = 0; number < FILE_BUCKETS; number++) {
        for (open_file *file = leaves->files[number], *next; file != NULL; file = next) {
            next = file->next;
            free(file);
        }
    }
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_destroy(&leaves->sets[number].lock);
    pthread_rwlock_destroy(&leaves->files_lock);
}

/* Let go of the leaves of a file, of all files where *inode* is NO_INODE. */
static void forget(leaves *leaves, uint64_t inode)
{
    for (int number = 0; number < LEAF_SETS; number++) {
        leaf_set *set = &leaves->sets[number];
        pthread_mutex_lock(&set->lock);
        for (known_leaf *way = set->ways; way < set->ways + LEAF_WAYS; way++) {
            if (!way->is_used || (inode != NO_INODE && way->inode != inode))
                continue;
            leaf_drop(way->leaf);
            *way = (known_leaf){.is_used = false};
        }
        pthread_mutex_unlock(&set->lock);
    }
}

void leaves_clear(leaves *leaves)
{
    forget(leaves, NO_INODE);
}

static uint64_t mixed(uint64_t number)
{
    number *= 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads consecutive numbers */
    return number ^ number >> 32;
}

static open_file **file_link(leaves *leaves, uint64_t inode)
{
    open_file **link = &leaves->files[mixed(inode) % FILE_BUCKETS];
    while (*link != NULL && (*link)->inode != inode)
        link = &(*link)->next;
    return link;
}

bool leaves_add_file(leaves *leaves, uint64_t inode, uint64_t size, uint32_t block_size)
{
    open_file *made = malloc(sizeof *made);
    if (made == NULL)
        return false;
    *made = (open_file){NULL, inode, size, block_size};
    pthread_rwlock_wrlock(&leaves->files_lock);
    open_file **link = file_link(leaves, inode);
    if (*link == NULL) {
        *link = made;
        made = NULL;
    }
    pthread_rwlock_unlock(&leaves->files_lock);
    free(made);
    return true;
}

void leaves_drop_file(leaves *leaves, uint64_t inode)
{
    pthread_rwlock_wrlock(&leaves->files_lock);
    open_file **link = file_link(leaves, inode), *found = *link;
    if (found != NULL)
        *link = found->next;
    pthread_rwlock_unlock(&leaves->files_lock);
    free(found);
    forget(leaves, inode);
}

bool leaves_find_file(leaves *leaves, uint64_t inode, uint64_t *size, uint32_t *block_size)
{
    pthread_rwlock_rdlock(&leaves->files_lock);
    open_file *found = *file_link(leaves, inode);
    if (found != NULL) {
        *size = found->size;
        *block_size = found->block_size;
    }
    pthread_rwlock_unlock(&leaves->files_lock);
    return found != NULL;
}

static leaf_set *set_of(leaves *leaves, uint64_t inode, uint64_t index)
{
    return &leaves->sets[mixed(inode ^ mixed(index)) % LEAF_SETS];
}

static known_leaf *way_of(leaf_set *set, uint64_t inode, uint64_t index)
{
    for (int number = 0; number < LEAF_WAYS; number++) {
        known_leaf *way = &set->ways[number];
        if (way->is_used && way->inode == inode && way->index == index)
            return way;
    }
    return NULL;
}

void leaves_put(leaves *leaves, uint64_t inode, uint64_t index, leaf *leaf)
{
    leaf_set *set = set_of(leaves, inode, index);
    pthread_mutex_lock(&set->lock);
    known_leaf *way = way_of(set, inode, index);
    if (way == NULL)
        way = &set->ways[set->next++ % LEAF_WAYS];
    if (way->is_used)
        leaf_drop(way->leaf);
    *way = (known_leaf){inode, index, leaf == NULL ? NULL : leaf_hold(leaf), true};
    pthread_mutex_unlock(&set->lock);
}

bool leaves_find(leaves *leaves, uint64_t inode, uint64_t index, leaf **found)
{
    leaf_set *set = set_of(leaves, inode, index);
    pthread_mutex_lock(&set->lock);
    known_leaf *way = way_of(set, inode, index);
    if (way != NULL)
        *found = way->leaf == NULL ? NULL : leaf_hold(way->leaf);
    pthread_mutex_unlock(&set->lock);
    return way != NULL;
}
