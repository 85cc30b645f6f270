#include "leaf_table.h"

#include <string.h>

enum { NO_INODE = 0 }; /* FUSE does not use this number */

void leaf_table_init(leaf_table *table)
{
    memset(table, 0, sizeof *table);
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_init(&table->sets[number].lock, NULL);
}

void leaf_table_destroy(leaf_table *table)
{
    leaf_table_clear(table);
    for (int number = 0; number < LEAF_SETS; number++)
        pthread_mutex_destroy(&table->sets[number].lock);
}

/* Drop the leaves of one disk, or of all disks if *inode* is NO_INODE. */
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

void leaf_table_drop(leaf_table *table, uint64_t inode)
{
    drop_leaves(table, inode);
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
