/* Waits for requests. In a burst, one thread polls for the next request instead of sleeping: to wake a processor that
 * has halted takes longer than to answer a seek, above all in a virtual machine. */
#ifndef CBTFS_WAIT_H
#define CBTFS_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* State that the threads of one device share. */
typedef struct {
    _Atomic uint64_t last; /* when the last request arrived */
    atomic_bool is_burst, is_polled;
    bool can_poll; /* else the thread would delay the client on the only processor */
} request_wait;

void request_wait_init(request_wait *wait);

/* Return when *device* may have a request. Sleep only in the read that follows. */
void request_wait_poll(request_wait *wait, int device);

/* Note that a request has arrived. */
void request_wait_note(request_wait *wait);

#endif
