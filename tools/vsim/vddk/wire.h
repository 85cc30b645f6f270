/* The connection to the simulator, in place of the real library's HTTPS and NFC.
 *
 * It is a library of its own, without an rpath to it: as with the real one's dependencies, the loader finds it
 * through LD_LIBRARY_PATH alone.
 */

#ifndef VSIM_WIRE_H
#define VSIM_WIRE_H

#include <stddef.h>
#include <stdint.h>

struct wire;

struct reply {
   unsigned code;        /* a VIX error, 0 for none */
   char action[16];      /* what the library is to do before it returns: "-", "hang", "crash" */
   size_t length;
   unsigned char *bytes; /* malloc; a NUL stands behind them */
};

/* NULL if DIR/vsim.conf does not name a simulator, or it is not there. */
struct wire *wire_open(const char *directory);
void wire_close(struct wire *wire);

/* Send fields, the last one NULL, and wait for the reply. -1 if the connection is lost. Safe for several threads. */
int wire_ask(struct wire *wire, struct reply *reply, const char *const *fields);

#endif
