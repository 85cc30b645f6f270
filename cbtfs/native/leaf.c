#include "leaf.h"

#include <stdlib.h>

leaf *leaf_new(void)
{
    leaf *created = calloc(1, sizeof *created);
    if (created != NULL)
        atomic_init(&created->references, 1);
    return created;
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
        pack_file_drop(atomic_load(&leaf->locations[slot].file));
        free(atomic_load(&leaf->locations[slot].piece_crcs));
    }
    free(leaf);
}

void leaf_attach(leaf *leaf, uint32_t pack, pack_file *file)
{
    for (int slot = 0; slot < FANOUT; slot++) {
        location *location = &leaf->locations[slot];
        if (!location->is_data || location->pack != pack)
            continue;
        pack_file *unset = NULL;
        if (!atomic_compare_exchange_strong(&location->file, &unset, pack_file_hold(file)))
            pack_file_drop(file);
    }
}

uint64_t leaf_data_mask(const leaf *leaf)
{
    uint64_t mask = 0;
    for (int slot = 0; slot < FANOUT; slot++)
        mask |= (uint64_t)leaf->locations[slot].is_data << slot;
    return mask;
}
