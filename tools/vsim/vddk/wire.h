/* The connection to the simulator. It replaces the HTTPS and NFC of the real library.
 *
 * It is a separate shared library, and vixDiskLib has no rpath: as with the dependencies of the real library,
 * the loader finds it only through LD_LIBRARY_PATH.
 */

#ifndef VSIM_WIRE_H
#define VSIM_WIRE_H

#include <stddef.h>
#include <stdint.h>

struct wire;

struct reply {
   unsigned code;        /* VIX error; 0 is success */
   char action[16];      /* action before the function returns: "-", "hang" or "crash" */
   size_t length;
   unsigned char *bytes; /* from malloc, terminated by a NUL */
};

/* Connect to the simulator in DIR/vsim.conf. Return NULL if the file is invalid or the connection fails. */
struct wire *wire_open(const char *directory);
void wire_close(struct wire *wire);

/* Send fields, terminated by NULL, and wait for the reply. Return -1 if the connection is lost. Thread-safe. */
int wire_ask(struct wire *wire, struct reply *reply, const char *const *fields);

#endif
