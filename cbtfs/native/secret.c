/* Regions of equal slots. A region is never unmapped: its slots are used again. */
#include "secret.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { REGION_BYTES = 1 << 14 };

typedef union slot {
    union slot *next;
    uint8_t bytes[SECRET_MAX_BYTES];
} slot;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static slot *first_free;

/* Map a region and add its slots to the list. Return false if there is no memory. */
static bool add_region(void)
{
    slot *region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        return false;
    madvise(region, REGION_BYTES, MADV_DONTDUMP);
    (void)!mlock(region, REGION_BYTES); /* EAGAIN or EPERM: the limit of locked memory is low */
    for (size_t number = 0; number < REGION_BYTES / sizeof(slot); number++) {
        region[number].next = first_free;
        first_free = &region[number];
    }
    return true;
}

void *secret_new(size_t size)
{
    slot *memory = NULL;
    if (size > SECRET_MAX_BYTES)
        return NULL;
    pthread_mutex_lock(&lock);
    if (first_free != NULL || add_region()) {
        memory = first_free;
        first_free = memory->next;
    }
    pthread_mutex_unlock(&lock);
    return memory == NULL ? NULL : memset(memory, 0, sizeof *memory);
}

void secret_free(void *memory)
{
    if (memory == NULL)
        return;
    OPENSSL_cleanse(memory, sizeof(slot));
    slot *freed = memory;
    pthread_mutex_lock(&lock);
    freed->next = first_free;
    first_free = freed;
    pthread_mutex_unlock(&lock);
}
