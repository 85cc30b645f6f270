#include "content.h"

#include <stdlib.h>
#include <string.h>

#include "format.h"

enum { CONTENT_OFFSET = 16 }; /* bytes before the content; the prefix fills the end of them */

static const uint8_t chunk_prefix[PREFIX_BYTES] = {'c', 'b', 't', 'f', 's', 0, 1, 0};

uint8_t *content_new(size_t length)
{
    uint8_t *memory = malloc(CONTENT_OFFSET + length);
    if (memory == NULL)
        return NULL;
    uint8_t *content = memory + CONTENT_OFFSET;
    memcpy(content - PREFIX_BYTES, chunk_prefix, PREFIX_BYTES);
    return content;
}

void content_free(uint8_t *content)
{
    if (content != NULL)
        free(content - CONTENT_OFFSET);
}
