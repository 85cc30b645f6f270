/* Exit with a message when the process receives a fatal signal. */
#ifndef CBTFS_FAULT_H
#define CBTFS_FAULT_H

#include <stddef.h>

/* Write *text* to stderr and exit with *code* at SIGABRT, SIGBUS and SIGSEGV. Return 0, or -1 and set errno. */
int fault_exit_with(const char *text, size_t length, int code);
/* Set the text and the code of a SIGABRT while the process gets no memory; call it first. */
int fault_set_shortage(const char *text, size_t length, int code);

#endif
