#include "crc32c.h"

enum { LANES = 8, POLYNOMIAL = (int)0x82f63b78 };

static uint32_t tables[LANES][256]; /* [n][b]: register of byte b followed by n zeros */

void crc32c_set_up(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? (uint32_t)POLYNOMIAL : 0);
        tables[0][byte] = value;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int lane = 1; lane < LANES; lane++) {
            uint32_t before = tables[lane - 1][byte];
            tables[lane][byte] = before >> 8 ^ tables[0][before & 0xff];
        }
}

uint32_t crc32c_update(uint32_t value, const uint8_t *data, size_t length)
{
    for (; length >= LANES; data += LANES, length -= LANES)
        value = tables[7][data[0] ^ (value & 0xff)] ^ tables[6][data[1] ^ (value >> 8 & 0xff)]
            ^ tables[5][data[2] ^ (value >> 16 & 0xff)] ^ tables[4][data[3] ^ value >> 24]
            ^ tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
    for (; length > 0; data++, length--)
        value = value >> 8 ^ tables[0][*data ^ (value & 0xff)];
    return value;
}
