/* A library with the ABI of VMware's VDDK that reads the disks of tools/vsim: setup, connections.
 *
 * It enforces the rules of the Programming Guide: InitEx once, log functions, Open and Close from one thread, one
 * reader per handle, whole chunks, nothing open at the end. The simulator decides on injected faults (knobs and
 * rules, docs/vsim.md): each of its replies carries an error code or an action.
 */

#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct library library;

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
   write_log(log, "VixDiskLib: initialized, version %u.%u, %s\n", major, minor, libDir);
   return VIX_OK;
}

void VixDiskLib_Exit(void)
{
   if (library.open_handles || library.open_connections)
      write_log(library.warn, "VixDiskLib_Exit: %d handles and %d connections are open\n", library.open_handles,
          library.open_connections);
   write_log(library.log, "VixDiskLib: %s\n", "end");
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

/* protection from storage vMotion */

VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *params, const char *identity)
{
   const char *vm = moref(params);
   const char *fields[] = {"prepare", vm, identity, NULL};

   if (!library.is_ready || !vm || !identity || strlen(identity) > IDENTITY)
      return VIX_E_INVALID_ARG;
   return login_and_request(params, "VixDiskLib_PrepareForAccess", fields);
}

VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *params, const char *identity)
{
   const char *vm = moref(params);
   const char *fields[] = {"end", vm, identity, NULL};

   if (!library.is_ready || !vm || !identity || strlen(identity) > IDENTITY)
      return VIX_E_INVALID_ARG;
   return login_and_request(params, "VixDiskLib_EndAccess", fields);
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
   return login_and_request(params, "VixDiskLib_Cleanup", fields);
}

/* connections */

/* Thread that writes the log lines of knob vddk.log_lines. */
static void *log_burst(void *argument)
{
   struct Connection *connection = argument;
   unsigned long number;

   for (number = 0; number < connection->burst_lines; number++)
      write_log(number % 2 ? library.warn : library.log, "line %lu of %lu: %s%c", number, connection->burst_lines,
          or_empty(connection->burst_text), '\n');
   return NULL;
}

VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, char readOnly, const char *snapshotRef,
                              const char *transportModes, VixDiskLibConnection *connection)
{
   const char *vm = moref(params);
   const char *fields[] = {"connect", vm, or_empty(snapshotRef), or_empty(transportModes), NULL};
   struct Connection *opened;
   VixError error;

   *connection = NULL;
   if (!library.is_ready || !vm || !readOnly || params->specType != VIXDISKLIB_SPEC_VMX)
      return VIX_E_INVALID_ARG;
   opened = calloc(1, sizeof *opened);
   if (!opened)
      return VIX_E_OUT_OF_MEMORY;
   opened->thumbprint = strdup(or_empty(params->thumbPrint));
   error = login(params, "VixDiskLib_ConnectEx", opened);
   if (!error)
      error = request_status(opened->wire, fields);
   if (error) {
      wire_close(opened->wire);
      free(opened->thumbprint);
      free(opened->burst_text);
      free(opened);
      return error;
   }
   if (opened->burst_lines)
      while (opened->burst_count < BURST_THREADS &&
             pthread_create(&opened->burst_threads[opened->burst_count], NULL, log_burst, opened) == 0)
         opened->burst_count++;
   library.open_connections++;
   *connection = opened;
   return VIX_OK;
}

VixError VixDiskLib_Disconnect(VixDiskLibConnection connection)
{
   while (connection->burst_count > 0)
      pthread_join(connection->burst_threads[--connection->burst_count], NULL);
   wire_close(connection->wire);
   free(connection->thumbprint);
   free(connection->burst_text);
   free(connection);
   library.open_connections--;
   return VIX_OK;
}
