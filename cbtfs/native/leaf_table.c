#include "leaf_table.h"

#include <stdlib.h>
#include <string.h>

enum { NO_INODE = 0 }; /* FUSE does not use this number */

void leaf_table_init(leaf_table *table)
{
    memset(table, 0, sizeof *table);
    pthread_rwlock_init(&table->files_lock, NULL);
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_init(&table->sets[number].lock, NULL);
}

void leaf_table_destroy(leaf_table *table)
{
    leaf_table_clear(table);
    for (int number = 0; number < FILE_BUCKETS; number++) {
        for (open_file *file = table->files[number], *next; file != NULL; file = next) {
            next = file->next;
            free(file);
        }
    }
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_destroy(&table->sets[number].lock);
    pthread_rwlock_destroy(&table->files_lock);
}

/* Drop the leaves of one file, or of all files if *inode* is NO_INODE. */
static void drop_leaves(leaf_table *table, uint64_t inode)
{
    for (int number = 0; number < LEAF_SETS; number++) {
        leaf_set *set = &table->sets[number];
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

void leaf_table_clear(leaf_table *table)
{
    drop_leaves(table, NO_INODE);
}

static uint64_t hash_number(uint64_t number)
{
    number *= 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads consecutive numbers */
    return number ^ number >> 32;
}

/* Return the link to a file, or the link at the end of its bucket. The caller holds files_lock. */
static open_file **find_link(leaf_table *table, uint64_t inode)
{
    open_file **link = &table->files[hash_number(inode) % FILE_BUCKETS];
    while (*link != NULL && (*link)->inode != inode)
        link = &(*link)->next;
    return link;
}

bool leaf_table_add_file(leaf_table *table, uint64_t inode, uint64_t size, uint32_t block_size)
{
    open_file *file = malloc(sizeof *file);
    if (file == NULL)
        return false;
    *file = (open_file){NULL, inode, size, block_size};
    pthread_rwlock_wrlock(&table->files_lock);
    open_file **link = find_link(table, inode);
    if (*link == NULL) {
        *link = file;
        file = NULL;
    }
    pthread_rwlock_unlock(&table->files_lock);
    free(file);
    return true;
}

void leaf_table_drop_file(leaf_table *table, uint64_t inode)
{
    pthread_rwlock_wrlock(&table->files_lock);
    open_file **link = find_link(table, inode), *file = *link;
    if (file != NULL)
        *link = file->next;
    pthread_rwlock_unlock(&table->files_lock);
    free(file);
    drop_leaves(table, inode);
}

bool leaf_table_find_file(leaf_table *table, uint64_t inode, uint64_t *size, uint32_t *block_size)
{
    pthread_rwlock_rdlock(&table->files_lock);
    open_file *file = *find_link(table, inode);
    if (file != NULL) {
        *size = file->size;
        *block_size = file->block_size;
    }
    pthread_rwlock_unlock(&table->files_lock);
    return file != NULL;
}

static leaf_set *set_of(leaf_table *table, uint64_t inode, uint64_t index)
{
    return &table->sets[hash_number(inode ^ hash_number(index)) % LEAF_SETS];
}

/* Return the way that contains a leaf, or NULL. The caller holds the lock of the set. */
static known_leaf *find_way(leaf_set *set, uint64_t inode, uint64_t index)
{
    for (int number = 0; number < LEAF_WAYS; number++) {
        known_leaf *way = &set->ways[number];
        if (way->is_used && way->inode == inode && way->index == index)
            return way;
    }
    return NULL;
}

void leaf_table_put(leaf_table *table, uint64_t inode, uint64_t index, leaf *leaf)
{
    leaf_set *set = set_of(table, inode, index);
    pthread_mutex_lock(&set->lock);
    known_leaf *way = find_way(set, inode, index);
    if (way == NULL)
        way = &set->ways[set->next++ % LEAF_WAYS];
    if (way->is_used)
        leaf_drop(way->leaf);
    *way = (known_leaf){inode, index, leaf == NULL ? NULL : leaf_hold(leaf), true};
    pthread_mutex_unlock(&set->lock);
}

bool leaf_table_find(leaf_table *table, uint64_t inode, uint64_t index, leaf **leaf)
{
    leaf_set *set = set_of(table, inode, index);
    pthread_mutex_lock(&set->lock);
    known_leaf *way = find_way(set, inode, index);
    if (way != NULL)
        *leaf = way->leaf == NULL ? NULL : leaf_hold(way->leaf);
    pthread_mutex_unlock(&set->lock);
    return way != NULL;
}
