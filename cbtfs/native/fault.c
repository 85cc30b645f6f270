#include "fault.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const int signals[] = {SIGABRT, SIGBUS, SIGSEGV};

enum { PROBE_BYTES = 16 << 20 };

typedef struct {
    char text[512];
    size_t length;
    int exit_code;
} fault_message;

static fault_message fault, shortage;

/* Signal handler: it takes no lock. Libraries in Rust abort when they get no memory. */
static void report_and_exit(int number)
{
    void *probe = number == SIGABRT
        ? mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        : NULL;
    const fault_message *message = probe == MAP_FAILED ? &shortage : &fault;
    ssize_t written = write(STDERR_FILENO, message->text, message->length);
    (void)written;
    _exit(message->exit_code);
}

static int set_message(fault_message *message, const char *text, size_t length, int code)
{
    if (length > sizeof message->text) {
        errno = EINVAL;
        return -1;
    }
    memcpy(message->text, text, length);
    message->length = length;
    message->exit_code = code;
    return 0;
}

int fault_set_shortage(const char *text, size_t length, int code)
{
    return set_message(&shortage, text, length, code);
}

int fault_exit_with(const char *text, size_t length, int code)
{
    if (set_message(&fault, text, length, code) < 0)
        return -1;
    struct sigaction action = {.sa_handler = report_and_exit};
    for (size_t number = 0; number < sizeof signals / sizeof *signals; number++)
        if (sigaction(signals[number], &action, NULL) < 0)
            return -1;
    return 0;
}
