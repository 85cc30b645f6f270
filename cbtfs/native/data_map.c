#include "data_map.h"

#include <string.h>

static const uint64_t max_leaves = (uint64_t)1 << 57; /* 2^63 blocks */

void data_map_init(data_map *map)
{
    memset(map, 0, sizeof *map);
    for (int number = 0; number < MAP_SETS; number++)
        pthread_mutex_init(&map->sets[number].lock, NULL);
}

void data_map_destroy(data_map *map)
{
    for (int number = 0; number < MAP_SETS; number++)
        pthread_mutex_destroy(&map->sets[number].lock);
}

static map_set *set_of(data_map *map, uint64_t inode, uint64_t group)
{
    uint64_t number = (inode ^ group) * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads consecutive numbers */
    return &map->sets[(number >> 32) % MAP_SETS];
}

/* Return the range of a group of leaves, or NULL. The caller holds the lock of the set. */
static known_range *find_range(map_set *set, uint64_t inode, uint64_t group)
{
    for (int number = 0; number < MAP_WAYS; number++) {
        known_range *way = &set->ways[number];
        if (way->is_used && way->inode == inode && way->first / MAP_LEAVES == group)
            return way;
    }
    return NULL;
}

bool data_map_put(data_map *map, uint64_t inode, uint64_t first, const void *masks, size_t count, uint64_t end)
{
    if (end > max_leaves || first >= end || count > end - first || count > MAP_LEAVES - first % MAP_LEAVES)
        return false;
    uint64_t group = first / MAP_LEAVES;
    map_set *set = set_of(map, inode, group);
    pthread_mutex_lock(&set->lock);
    known_range *way = find_range(set, inode, group);
    if (way == NULL)
        way = &set->ways[set->next++ % MAP_WAYS];
    way->inode = inode, way->first = first, way->end = end;
    way->count = count, way->is_used = true;
    memcpy(way->masks, masks, count * sizeof *way->masks);
    pthread_mutex_unlock(&set->lock);
    return true;
}

void data_map_drop(data_map *map, uint64_t inode)
{
    for (int number = 0; number < MAP_SETS; number++) {
        map_set *set = &map->sets[number];
        pthread_mutex_lock(&set->lock);
        for (known_range *way = set->ways; way < set->ways + MAP_WAYS; way++)
            if (way->inode == inode)
                way->is_used = false;
        pthread_mutex_unlock(&set->lock);
    }
}

/* Search a range that contains *block*. */
static map_status search_range(const known_range *range, uint64_t block, bool is_data, uint64_t *found)
{
    uint64_t leaf = block / FANOUT, masked_end = range->first + range->count;
    unsigned slot = block % FANOUT;
    for (; leaf < masked_end; leaf++, slot = 0) {
        uint64_t mask = range->masks[leaf - range->first];
        uint64_t matches = (is_data ? mask : ~mask) & ~(uint64_t)0 << slot;
        if (matches != 0) {
            *found = leaf * FANOUT + __builtin_ctzll(matches);
            return MAP_FOUND;
        }
    }
    bool is_zero_left = leaf < range->end;
    *found = !is_data && is_zero_left ? leaf * FANOUT + slot : range->end * FANOUT;
    return !is_data && is_zero_left ? MAP_FOUND : MAP_PASSED;
}

map_status data_map_search(data_map *map, uint64_t inode, uint64_t block, bool is_data, uint64_t *found)
{
    uint64_t leaf = block / FANOUT;
    map_set *set = set_of(map, inode, leaf / MAP_LEAVES);
    map_status status = MAP_UNKNOWN;
    pthread_mutex_lock(&set->lock);
    known_range *range = find_range(set, inode, leaf / MAP_LEAVES);
    if (range != NULL && range->first <= leaf && leaf < range->end)
        status = search_range(range, block, is_data, found);
    pthread_mutex_unlock(&set->lock);
    return status;
}
