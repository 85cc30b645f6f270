/* What a process says, and how it ends, when a fault of memory or an assertion ends it. */
#ifndef CBTFS_FAULT_H
#define CBTFS_FAULT_H

#include <stddef.h>

/* Write text to stderr and exit with that code at SIGABRT, SIGBUS and SIGSEGV; 0, or -1 and errno. */
int fault_end_with(const char *text, size_t length, int code);

#endif
