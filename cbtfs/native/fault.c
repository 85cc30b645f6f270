#include "fault.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGABRT, SIGBUS, SIGSEGV};

static char message[512];
static size_t message_length;
static int exit_code;

/* Signal handler: it allocates no memory and takes no lock. */
static void report_and_exit(int number)
{
    (void)number;
    ssize_t written = write(STDERR_FILENO, message, message_length);
    (void)written;
    _exit(exit_code);
}

int fault_exit_with(const char *text, size_t length, int code)
{
    if (length > sizeof message) {
        errno = EINVAL;
        return -1;
    }
    memcpy(message, text, length);
    message_length = length;
    exit_code = code;
    struct sigaction action = {.sa_handler = report_and_exit};
    for (size_t number = 0; number < sizeof signals / sizeof *signals; number++)
        if (sigaction(signals[number], &action, NULL) < 0)
            return -1;
    return 0;
}
