/* CRC-32C (Castagnoli), which ext4, XFS and btrfs use for their metadata. */
#ifndef CBTFS_CRC32C_H
#define CBTFS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Fill the tables. Call once before crc32c_update. */
void crc32c_set_up(void);

/* Return the register after *data*. Neither the initial value nor the result is inverted. */
uint32_t crc32c_update(uint32_t value, const uint8_t *data, size_t length);

#endif
