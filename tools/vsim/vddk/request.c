/* Requests to the simulator, and logins. */

#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void write_log(VixDiskLibGenericLogFunc *function, const char *format, ...)
{
   va_list arguments;

   va_start(arguments, format);
   function(format, arguments);
   va_end(arguments);
}

/* Carry out the action of a reply; return its error code. */
static VixError act(const struct reply *reply)
{
   if (strcmp(reply->action, "hang") == 0)
      for (;;)
         pause();
   if (strcmp(reply->action, "crash") == 0)
      *(volatile int *)0 = 0;
   return reply->code;
}

VixError request(struct wire *wire, struct reply *reply, const char *const *fields)
{
   VixError error;

   if (wire_ask(wire, reply, fields) != 0)
      return VIX_E_HOST_TCP_CONN_LOST;
   error = act(reply);
   if (error) {
      write_log(library.warn, "%s failed with %u: %s\n", fields[0], reply->code, (char *)reply->bytes);
      free(reply->bytes);
      reply->bytes = NULL;
   }
   return error;
}

VixError request_status(struct wire *wire, const char *const *fields)
{
   struct reply reply;
   VixError error = request(wire, &reply, fields);

   free(reply.bytes);
   return error;
}

const char *or_empty(const char *text)
{
   return text ? text : "";
}

VixError login(const VixDiskLibConnectParams *params, const char *caller, struct Connection *connection)
{
   int is_session = params->credType == VIXDISKLIB_CRED_SESSIONID;
   const char *user = is_session ? params->creds.sessionId.userName : params->creds.uid.userName;
   const char *secret = is_session ? params->creds.sessionId.cookie : params->creds.uid.password;
   char port[16];
   const char *fields[] = {"login", caller, or_empty(params->serverName), port, is_session ? "session" : "user",
                           or_empty(user), or_empty(secret), NULL};
   struct reply reply;
   VixError error;
   int logs_secrets = 0;

   if (params->credType != VIXDISKLIB_CRED_UID && !is_session)
      return VIX_E_NOT_SUPPORTED;
   snprintf(port, sizeof port, "%u", params->port);
   connection->wire = wire_open(library.directory);
   if (!connection->wire)
      return VIX_E_CANNOT_CONNECT_TO_HOST;
   error = request(connection->wire, &reply, fields);
   if (!error) {
      sscanf((char *)reply.bytes, "%lu %d", &connection->burst_lines, &logs_secrets);
      if (logs_secrets && asprintf(&connection->burst_text, "user %s password=%s thumbprint %s", or_empty(user),
                                   or_empty(secret), or_empty(params->thumbPrint)) < 0)
         connection->burst_text = NULL;
   } else {
      wire_close(connection->wire);
      connection->wire = NULL;
   }
   free(reply.bytes);
   return error;
}

VixError login_and_request(const VixDiskLibConnectParams *params, const char *caller, const char *const *fields)
{
   struct Connection session = {0};
   VixError error = login(params, caller, &session);

   if (!error)
      error = request_status(session.wire, fields);
   wire_close(session.wire);
   free(session.burst_text);
   return error;
}

const char *moref(const VixDiskLibConnectParams *params)
{
   if (!params->vmxSpec || strncmp(params->vmxSpec, "moref=", 6) != 0)
      return NULL;
   return params->vmxSpec + 6;
}
