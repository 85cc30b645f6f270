/* A library with the ABI of VMware's VDDK that reads the disks of tools/vsim.
 *
 * It holds its caller to the rules of the Programming Guide: one InitEx, log functions, Open and Close from one
 * thread, one reader of a handle at a time, whole chunks, nothing open at the end. What goes wrong on request is
 * the simulator's decision (knobs and rules, docs/vsim.md): each answer of its carries an error code or an action.
 */

#include "vixDiskLib.h"
#include "wire.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STORMS = 4, IDENTITY = 50 };

struct Connection {
   struct wire *wire;
   char *thumbprint;
   pthread_t storms[STORMS];
   int storm_count;
   unsigned long storm_lines;
   char *storm_words;
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

static struct {
   int is_ready, open_handles, open_connections;
   pthread_t opener;
   VixDiskLibGenericLogFunc *log, *warn;
   char *directory;
} library;

static void say(VixDiskLibGenericLogFunc *function, const char *format, ...)
{
   va_list arguments;

   va_start(arguments, format);
   function(format, arguments);
   va_end(arguments);
}

/* requests */

static VixError act(const struct reply *reply)
{
   if (strcmp(reply->action, "hang") == 0)
      for (;;)
         pause();
   if (strcmp(reply->action, "crash") == 0)
      *(volatile int *)0 = 0;
   return reply->code;
}

/* The error of a request, or of a connection that is lost. The reply's bytes are the caller's, NULL after an error. */
static VixError ask(struct wire *wire, struct reply *reply, const char *const *fields)
{
   VixError error;

   if (wire_ask(wire, reply, fields) != 0)
      return VIX_E_HOST_TCP_CONN_LOST;
   error = act(reply);
   if (error) {
      say(library.warn, "%s failed with %u: %s\n", fields[0], reply->code, (char *)reply->bytes);
      free(reply->bytes);
      reply->bytes = NULL;
   }
   return error;
}

static VixError tell(struct wire *wire, const char *const *fields)
{
   struct reply reply;
   VixError error = ask(wire, &reply, fields);

   free(reply.bytes);
   return error;
}

static const char *or_none(const char *text)
{
   return text ? text : "";
}

/* Log in to the simulator as *caller*, the name of a function. */
static VixError login(const VixDiskLibConnectParams *params, const char *caller, struct Connection *connection)
{
   int is_session = params->credType == VIXDISKLIB_CRED_SESSIONID;
   const char *user = is_session ? params->creds.sessionId.userName : params->creds.uid.userName;
   const char *secret = is_session ? params->creds.sessionId.cookie : params->creds.uid.password;
   char port[16];
   const char *fields[] = {"login", caller, or_none(params->serverName), port, is_session ? "session" : "user",
                           or_none(user), or_none(secret), NULL};
   struct reply reply;
   VixError error;
   int says_secrets = 0;

   if (params->credType != VIXDISKLIB_CRED_UID && !is_session)
      return VIX_E_NOT_SUPPORTED;
   snprintf(port, sizeof port, "%u", params->port);
   connection->wire = wire_open(library.directory);
   if (!connection->wire)
      return VIX_E_CANNOT_CONNECT_TO_HOST;
   error = ask(connection->wire, &reply, fields);
   if (!error) {
      sscanf((char *)reply.bytes, "%lu %d", &connection->storm_lines, &says_secrets);
      if (says_secrets && asprintf(&connection->storm_words, "user %s password=%s thumbprint %s", or_none(user),
                                   or_none(secret), or_none(params->thumbPrint)) < 0)
         connection->storm_words = NULL;
   } else {
      wire_close(connection->wire);
      connection->wire = NULL;
   }
   free(reply.bytes);
   return error;
}

/* Log in, ask for one thing, leave. */
static VixError visit(const VixDiskLibConnectParams *params, const char *caller, const char *const *fields)
{
   struct Connection visitor = {0};
   VixError error = login(params, caller, &visitor);

   if (!error)
      error = tell(visitor.wire, fields);
   wire_close(visitor.wire);
   free(visitor.storm_words);
   return error;
}

static const char *moref(const VixDiskLibConnectParams *params)
{
   if (!params->vmxSpec || strncmp(params->vmxSpec, "moref=", 6) != 0)
      return NULL;
   return params->vmxSpec + 6;
}

/* the library */

VixError VixDiskLib_InitEx(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log,
                           VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic, const char *libDir,
                           const char *configFile)
{
   (void)minor;
   (void)configFile;
   if (library.is_ready || major < 5 || major > 8 || !log || !warn || !panic || !libDir)
      return VIX_E_INVALID_ARG;
   library.log = log;
   library.warn = warn;
   library.directory = strdup(libDir);
   library.opener = pthread_self();
   library.is_ready = 1;
   say(log, "VixDiskLib: initialized, version %u.%u, %s\n", major, minor, libDir);
   return VIX_OK;
}

void VixDiskLib_Exit(void)
{
   if (library.open_handles || library.open_connections)
      say(library.warn, "VixDiskLib_Exit: %d handles and %d connections are open\n", library.open_handles,
          library.open_connections);
   say(library.log, "VixDiskLib: %s\n", "end");
   library.is_ready = 0;
}

const char *VixDiskLib_ListTransportModes(void)
{
   return "file:san:hotadd:nbdssl:nbd";
}

char *VixDiskLib_GetErrorText(VixError err, const char *locale)
{
   static const struct { unsigned code; const char *text; } texts[] = {
      {VIX_E_FAIL, "Unknown error"},
      {VIX_E_OUT_OF_MEMORY, "Memory allocation failed"},
      {VIX_E_INVALID_ARG, "A parameter is invalid"},
      {VIX_E_FILE_NOT_FOUND, "File not found"},
      {VIX_E_OBJECT_IS_BUSY, "The handle is busy"},
      {VIX_E_NOT_SUPPORTED, "Not supported"},
      {VIX_E_FILE_ERROR, "A file access error occurred"},
      {VIX_E_HOST_CONNECTION_LOST, "The connection to the host was lost"},
      {VIX_E_HOST_USER_PERMISSIONS, "Insufficient permissions"},
      {VIX_E_INVALID_AUTHENTICATION_SESSION, "No such session"},
      {VIX_E_SNAPSHOT_NOTFOUND, "Snapshot not found"},
      {VIX_E_HOST_TCP_CONN_LOST, "The server connection was lost"},
      {VIX_E_HOST_SERVER_SHUTDOWN, "The server is being shut down"},
      {VIX_E_HOST_SERVER_NOT_AVAILABLE, "The server is not available"},
      {VIX_E_DISK_OUTOFRANGE, "Beyond the end of the disk"},
      {VIX_E_CANNOT_CONNECT_TO_HOST, "Cannot connect to the host"},
   };
   size_t number;

   (void)locale;
   for (number = 0; number < sizeof texts / sizeof *texts; number++)
      if (texts[number].code == (err & 0xffff))
         return strdup(texts[number].text);
   return strdup("An error");
}

void VixDiskLib_FreeErrorText(char *text)
{
   free(text);
}

VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void)
{
   return calloc(1, sizeof(VixDiskLibConnectParams));
}

void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params)
{
   free(params);
}

/* locks against storage vMotion */

VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *params, const char *identity)
{
   const char *vm = moref(params);
   const char *fields[] = {"prepare", vm, identity, NULL};

   if (!library.is_ready || !vm || !identity || strlen(identity) > IDENTITY)
      return VIX_E_INVALID_ARG;
   return visit(params, "VixDiskLib_PrepareForAccess", fields);
}

VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *params, const char *identity)
{
   const char *vm = moref(params);
   const char *fields[] = {"end", vm, identity, NULL};

   if (!library.is_ready || !vm || !identity || strlen(identity) > IDENTITY)
      return VIX_E_INVALID_ARG;
   return visit(params, "VixDiskLib_EndAccess", fields);
}

VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *params, uint32_t *cleaned, uint32_t *remaining)
{
   const char *fields[] = {"cleanup", NULL};

   if (!library.is_ready || params->vmxSpec)
      return VIX_E_INVALID_ARG;
   if (cleaned)
      *cleaned = 0;
   if (remaining)
      *remaining = 0;
   return visit(params, "VixDiskLib_Cleanup", fields);
}

/* connections */

static void *storm(void *argument)
{
   struct Connection *connection = argument;
   unsigned long number;

   for (number = 0; number < connection->storm_lines; number++)
      say(number % 2 ? library.warn : library.log, "line %lu of %lu: %s%c", number, connection->storm_lines,
          or_none(connection->storm_words), '\n');
   return NULL;
}

VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, char readOnly, const char *snapshotRef,
                              const char *transportModes, VixDiskLibConnection *connection)
{
   const char *vm = moref(params);
   const char *fields[] = {"connect", vm, or_none(snapshotRef), or_none(transportModes), NULL};
   struct Connection *made;
   VixError error;

   *connection = NULL;
   if (!library.is_ready || !vm || !readOnly || params->specType != VIXDISKLIB_SPEC_VMX)
      return VIX_E_INVALID_ARG;
   made = calloc(1, sizeof *made);
   if (!made)
      return VIX_E_OUT_OF_MEMORY;
   made->thumbprint = strdup(or_none(params->thumbPrint));
   error = login(params, "VixDiskLib_ConnectEx", made);
   if (!error)
      error = tell(made->wire, fields);
   if (error) {
      wire_close(made->wire);
      free(made->thumbprint);
      free(made->storm_words);
      free(made);
      return error;
   }
   if (made->storm_lines)
      while (made->storm_count < STORMS &&
             pthread_create(&made->storms[made->storm_count], NULL, storm, made) == 0)
         made->storm_count++;
   library.open_connections++;
   *connection = made;
   return VIX_OK;
}

VixError VixDiskLib_Disconnect(VixDiskLibConnection connection)
{
   while (connection->storm_count > 0)
      pthread_join(connection->storms[--connection->storm_count], NULL);
   wire_close(connection->wire);
   free(connection->thumbprint);
   free(connection->storm_words);
   free(connection);
   library.open_connections--;
   return VIX_OK;
}

/* reading */

static VixError fetch(struct Handle *handle, uint64_t start, uint64_t count, unsigned char *buffer)
{
   char first[24], sectors[24];
   const char *fields[] = {"read", first, sectors, NULL};
   struct reply reply;
   VixError error;

   if (!count || start >= handle->capacity || count > handle->capacity - start)
      return VIX_E_DISK_OUTOFRANGE;
   snprintf(first, sizeof first, "%" PRIu64, start);
   snprintf(sectors, sizeof sectors, "%" PRIu64, count);
   error = ask(handle->connection->wire, &reply, fields);
   if (!error && reply.length != count * VIXDISKLIB_SECTOR_SIZE)
      error = VIX_E_FILE_ERROR;
   if (!error)
      memcpy(buffer, reply.bytes, reply.length);
   free(reply.bytes);
   return error;
}

/* Carries out what ReadAsync was asked for, in order, and calls back from here. */
static void *work(void *argument)
{
   struct Handle *handle = argument;

   pthread_mutex_lock(&handle->lock);
   for (;;) {
      struct job *job;
      VixError error;

      while (!handle->first && !handle->is_closing)
         pthread_cond_wait(&handle->changed, &handle->lock);
      job = handle->first;
      if (!job)
         break;
      handle->first = job->next;
      if (!handle->first)
         handle->last = &handle->first;
      pthread_mutex_unlock(&handle->lock);
      error = fetch(handle, job->start, job->count, job->buffer);
      job->callback(job->data, error);
      free(job);
      pthread_mutex_lock(&handle->lock);
      handle->pending--;
      pthread_cond_broadcast(&handle->changed);
   }
   pthread_mutex_unlock(&handle->lock);
   return NULL;
}

VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32_t flags,
                         VixDiskLibHandle *handle)
{
   char number[16];
   const char *fields[] = {"open", connection->thumbprint, path, number, NULL};
   struct Handle *made;
   struct reply reply;
   VixError error;

   *handle = NULL;
   if (!pthread_equal(library.opener, pthread_self()) || !(flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY))
      return VIX_E_INVALID_ARG;
   snprintf(number, sizeof number, "%u", flags);
   error = ask(connection->wire, &reply, fields);
   if (error)
      return error;
   made = calloc(1, sizeof *made);
   if (!made || sscanf((char *)reply.bytes, "%" SCNu64 " %d %31s %d", &made->capacity, &made->links, made->mode,
                       &made->is_asynchronous) != 4) {
      free(made);
      free(reply.bytes);
      return VIX_E_FAIL;
   }
   free(reply.bytes);
   made->connection = connection;
   made->last = &made->first;
   pthread_mutex_init(&made->lock, NULL);
   pthread_cond_init(&made->changed, NULL);
   if (pthread_create(&made->worker, NULL, work, made) != 0) {
      free(made);
      return VIX_E_OUT_OF_MEMORY;
   }
   library.open_handles++;
   *handle = made;
   return VIX_OK;
}

VixError VixDiskLib_Close(VixDiskLibHandle handle)
{
   const char *fields[] = {"close", NULL};
   VixError error;

   if (!pthread_equal(library.opener, pthread_self()))
      return VIX_E_INVALID_ARG;
   pthread_mutex_lock(&handle->lock);
   if (handle->pending || handle->is_reading) {
      pthread_mutex_unlock(&handle->lock);
      return VIX_E_OBJECT_IS_BUSY;
   }
   handle->is_closing = 1;
   pthread_cond_broadcast(&handle->changed);
   pthread_mutex_unlock(&handle->lock);
   pthread_join(handle->worker, NULL);
   error = tell(handle->connection->wire, fields);
   pthread_cond_destroy(&handle->changed);
   pthread_mutex_destroy(&handle->lock);
   free(handle);
   library.open_handles--;
   return error;
}

VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info)
{
   VixDiskLibInfo *made = calloc(1, sizeof *made);

   *info = made;
   if (!made)
      return VIX_E_OUT_OF_MEMORY;
   made->capacity = handle->capacity;
   made->adapterType = 3;
   made->numLinks = handle->links;
   made->logicalSectorSize = made->physicalSectorSize = VIXDISKLIB_SECTOR_SIZE;
   return VIX_OK;
}

void VixDiskLib_FreeInfo(VixDiskLibInfo *info)
{
   free(info);
}

const char *VixDiskLib_GetTransportMode(VixDiskLibHandle handle)
{
   return handle->mode;
}

VixError VixDiskLib_Read(VixDiskLibHandle handle, uint64_t start, uint64_t count, unsigned char *buffer)
{
   VixError error;

   pthread_mutex_lock(&handle->lock);
   if (handle->is_reading || handle->pending) {
      pthread_mutex_unlock(&handle->lock);
      return VIX_E_OBJECT_IS_BUSY;
   }
   handle->is_reading = 1;
   pthread_mutex_unlock(&handle->lock);
   error = fetch(handle, start, count, buffer);
   pthread_mutex_lock(&handle->lock);
   handle->is_reading = 0;
   pthread_mutex_unlock(&handle->lock);
   return error;
}

VixError VixDiskLib_ReadAsync(VixDiskLibHandle handle, uint64_t start, uint64_t count, unsigned char *buffer,
                              VixDiskLibCompletionCB callback, void *data)
{
   struct job *job;

   if (!handle->is_asynchronous)
      return VIX_E_NOT_SUPPORTED;
   if (!callback || !(job = calloc(1, sizeof *job)))
      return VIX_E_INVALID_ARG;
   *job = (struct job){NULL, start, count, buffer, callback, data};
   pthread_mutex_lock(&handle->lock);
   *handle->last = job;
   handle->last = &job->next;
   handle->pending++;
   pthread_cond_broadcast(&handle->changed);
   pthread_mutex_unlock(&handle->lock);
   return VIX_ASYNC;
}

VixError VixDiskLib_Wait(VixDiskLibHandle handle)
{
   pthread_mutex_lock(&handle->lock);
   while (handle->pending)
      pthread_cond_wait(&handle->changed, &handle->lock);
   pthread_mutex_unlock(&handle->lock);
   return VIX_OK;
}

VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle handle, uint64_t start, uint64_t count, uint64_t chunk,
                                         VixDiskLibBlockList **list)
{
   char first[24], sectors[24], each[24];
   const char *fields[] = {"allocated", first, sectors, each, NULL};
   struct reply reply;
   VixError error;
   size_t blocks;

   *list = NULL;
   if (chunk < VIXDISKLIB_MIN_CHUNK_SIZE || !count || count % chunk || count / chunk > VIXDISKLIB_MAX_CHUNK_NUMBER ||
       start >= handle->capacity || count > handle->capacity - start)
      return VIX_E_INVALID_ARG;
   snprintf(first, sizeof first, "%" PRIu64, start);
   snprintf(sectors, sizeof sectors, "%" PRIu64, count);
   snprintf(each, sizeof each, "%" PRIu64, chunk);
   error = ask(handle->connection->wire, &reply, fields);
   if (error)
      return error;
   blocks = reply.length / sizeof(VixDiskLibBlock);
   *list = malloc(sizeof **list + blocks * sizeof(VixDiskLibBlock));
   if (*list) {
      (*list)->numBlocks = (uint32_t)blocks;
      memcpy((*list)->blocks, reply.bytes, blocks * sizeof(VixDiskLibBlock)); /* little-endian, as this machine is */
   }
   free(reply.bytes);
   return *list ? VIX_OK : VIX_E_OUT_OF_MEMORY;
}

VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list)
{
   free(list);
   return VIX_OK;
}
