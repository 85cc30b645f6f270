#define _GNU_SOURCE /* CPU_COUNT */
#include "wait.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

/* A thread polls as long as KVM polls for a halted guest (halt_poll_ns). The requests of a program that waits for each
 * reply are that far apart at most if both its processor and that of the reply have to be woken. */
static const uint64_t POLL_NS = 200000, BURST_NS = 500000;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

void request_wait_init(request_wait *wait)
{
    cpu_set_t processors;
    atomic_init(&wait->last, 0);
    atomic_init(&wait->is_burst, false);
    atomic_init(&wait->is_polled, false);
    wait->can_poll = sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) > 1;
}

void request_wait_poll(request_wait *wait, int device)
{
    if (!wait->can_poll || !atomic_load(&wait->is_burst) || atomic_exchange(&wait->is_polled, true))
        return;
    struct pollfd polled = {.fd = device, .events = POLLIN};
    uint64_t end = now() + POLL_NS;
    while (poll(&polled, 1, 0) == 0) {
        if (now() >= end) {
            atomic_store(&wait->is_burst, false);
            break;
        }
        sched_yield(); /* another program that needs this processor goes first */
    }
    atomic_store(&wait->is_polled, false);
}

void request_wait_note(request_wait *wait)
{
    if (wait->can_poll) {
        uint64_t time = now(), last = atomic_exchange(&wait->last, time);
        atomic_store(&wait->is_burst, time - last < BURST_NS);
    }
}
