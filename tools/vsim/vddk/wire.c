#include "wire.h"

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_REPLY = 64 << 20 };

struct wire {
   FILE *stream;
   int fd;
   pthread_mutex_t lock;
};

static int dial(const char *host, const char *port)
{
   struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *addresses, *address;
   int fd = -1;

   if (getaddrinfo(host, port, &hints, &addresses) != 0)
      return -1;
   for (address = addresses; address && fd < 0; address = address->ai_next) {
      fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);
      if (fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
         close(fd);
         fd = -1;
      }
   }
   freeaddrinfo(addresses);
   return fd;
}

struct wire *wire_open(const char *directory)
{
   char path[4096], host[256], port[16];
   struct wire *wire;
   FILE *file;
   int fields;

   if (snprintf(path, sizeof path, "%s/vsim.conf", directory) >= (int)sizeof path)
      return NULL;
   file = fopen(path, "re");
   if (!file)
      return NULL;
   fields = fscanf(file, "%255s %15s", host, port);
   fclose(file);
   if (fields != 2 || !(wire = calloc(1, sizeof *wire)))
      return NULL;
   wire->fd = dial(host, port);
   wire->stream = wire->fd < 0 ? NULL : fdopen(wire->fd, "r");
   if (!wire->stream) {
      free(wire);
      return NULL;
   }
   pthread_mutex_init(&wire->lock, NULL);
   return wire;
}

void wire_close(struct wire *wire)
{
   if (!wire)
      return;
   fclose(wire->stream);
   pthread_mutex_destroy(&wire->lock);
   free(wire);
}

static int send_all(int fd, const char *bytes, size_t length)
{
   while (length > 0) {
      ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);

      if (sent <= 0)
         return -1;
      bytes += sent;
      length -= (size_t)sent;
   }
   return 0;
}

static int exchange(struct wire *wire, struct reply *reply, const char *line, size_t length)
{
   char head[64];

   if (send_all(wire->fd, line, length) != 0 || !fgets(head, sizeof head, wire->stream))
      return -1;
   if (sscanf(head, "%u %15s %zu", &reply->code, reply->action, &reply->length) != 3 || reply->length > MAX_REPLY)
      return -1;
   reply->bytes = malloc(reply->length + 1);
   if (!reply->bytes)
      return -1;
   reply->bytes[reply->length] = 0;
   if (fread(reply->bytes, 1, reply->length, wire->stream) != reply->length) {
      free(reply->bytes);
      reply->bytes = NULL;
      return -1;
   }
   return 0;
}

int wire_ask(struct wire *wire, struct reply *reply, const char *const *fields)
{
   char line[16384];
   size_t used = 0;
   int done;

   memset(reply, 0, sizeof *reply);
   for (; *fields; fields++) {
      size_t length = strlen(*fields);

      if (strpbrk(*fields, "\t\n") || used + length + 1 >= sizeof line)
         return -1;
      memcpy(line + used, *fields, length);
      used += length;
      line[used++] = '\t';
   }
   line[used - 1] = '\n';
   pthread_mutex_lock(&wire->lock);
   done = exchange(wire, reply, line, used);
   pthread_mutex_unlock(&wire->lock);
   return done;
}
