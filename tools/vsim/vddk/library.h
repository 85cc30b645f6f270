/* Internals of the library: its state, connections, disk handles, requests to the simulator. */

#ifndef VSIM_LIBRARY_H
#define VSIM_LIBRARY_H

#include "vixDiskLib.h"
#include "wire.h"

#include <pthread.h>

#define HIDDEN __attribute__((visibility("hidden")))

enum { BURST_THREADS = 4, IDENTITY = 50 };

struct Connection {
   struct wire *wire;
   char *thumbprint;
   pthread_t burst_threads[BURST_THREADS];
   int burst_count;
   unsigned long burst_lines;
   char *burst_text;
};

struct job {
   struct job *next;
   uint64_t start, count;
   unsigned char *buffer;
   VixDiskLibCompletionCB callback;
   void *data;
};

struct Handle {
   struct Connection *connection;
   uint64_t capacity;
   char mode[32];
   int links;
   pthread_mutex_t lock;
   pthread_cond_t changed;
   pthread_t worker;
   struct job *first, **last;
   int pending, is_reading, is_closing, is_asynchronous;
};

struct library {
   int is_ready, open_handles, open_connections;
   pthread_t opener;
   VixDiskLibGenericLogFunc *log, *warn;
   char *directory;
};

extern HIDDEN struct library library;

/* Write a line to a log callback of the program. */
HIDDEN void write_log(VixDiskLibGenericLogFunc *function, const char *format, ...);

/* Send a request. Return its error, or VIX_E_HOST_TCP_CONN_LOST. The caller frees the bytes of the reply, which are
 * NULL after an error. */
HIDDEN VixError request(struct wire *wire, struct reply *reply, const char *const *fields);

/* Send a request and return only its error. */
HIDDEN VixError request_status(struct wire *wire, const char *const *fields);

/* Return the text, or an empty string for NULL. */
HIDDEN const char *or_empty(const char *text);

/* Log in to the simulator for *caller*, the name of a function. */
HIDDEN VixError login(const VixDiskLibConnectParams *params, const char *caller, struct Connection *connection);

/* Log in, send one request and disconnect. */
HIDDEN VixError login_and_request(const VixDiskLibConnectParams *params, const char *caller, const char *const *fields);

/* Return the id in vmxSpec; NULL if vmxSpec has none. */
HIDDEN const char *moref(const VixDiskLibConnectParams *params);

#endif
