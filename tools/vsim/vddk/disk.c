/* Disk handles: Open, Close, reads, allocated blocks. */

#include "library.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
   error = request(handle->connection->wire, &reply, fields);
   if (!error && reply.length != count * VIXDISKLIB_SECTOR_SIZE)
      error = VIX_E_FILE_ERROR;
   if (!error)
      memcpy(buffer, reply.bytes, reply.length);
   free(reply.bytes);
   return error;
}

/* Thread of a handle: carries out the jobs of ReadAsync in order and calls their callbacks. */
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
   struct Handle *opened;
   struct reply reply;
   VixError error;

   *handle = NULL;
   if (!pthread_equal(library.opener, pthread_self()) || !(flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY))
      return VIX_E_INVALID_ARG;
   snprintf(number, sizeof number, "%u", flags);
   error = request(connection->wire, &reply, fields);
   if (error)
      return error;
   opened = calloc(1, sizeof *opened);
   if (!opened || sscanf((char *)reply.bytes, "%" SCNu64 " %d %31s %d", &opened->capacity, &opened->links, opened->mode,
                       &opened->is_asynchronous) != 4) {
      free(opened);
      free(reply.bytes);
      return VIX_E_FAIL;
   }
   free(reply.bytes);
   opened->connection = connection;
   opened->last = &opened->first;
   pthread_mutex_init(&opened->lock, NULL);
   pthread_cond_init(&opened->changed, NULL);
   if (pthread_create(&opened->worker, NULL, work, opened) != 0) {
      free(opened);
      return VIX_E_OUT_OF_MEMORY;
   }
   library.open_handles++;
   *handle = opened;
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
   error = request_status(handle->connection->wire, fields);
   pthread_cond_destroy(&handle->changed);
   pthread_mutex_destroy(&handle->lock);
   free(handle);
   library.open_handles--;
   return error;
}

VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info)
{
   VixDiskLibInfo *opened = calloc(1, sizeof *opened);

   *info = opened;
   if (!opened)
      return VIX_E_OUT_OF_MEMORY;
   opened->capacity = handle->capacity;
   opened->adapterType = 3;
   opened->numLinks = handle->links;
   opened->logicalSectorSize = opened->physicalSectorSize = VIXDISKLIB_SECTOR_SIZE;
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
   char first[24], sectors[24], chunk_sectors[24];
   const char *fields[] = {"allocated", first, sectors, chunk_sectors, NULL};
   struct reply reply;
   VixError error;
   size_t blocks;

   *list = NULL;
   if (chunk < VIXDISKLIB_MIN_CHUNK_SIZE || !count || count % chunk || count / chunk > VIXDISKLIB_MAX_CHUNK_NUMBER ||
       start >= handle->capacity || count > handle->capacity - start)
      return VIX_E_INVALID_ARG;
   snprintf(first, sizeof first, "%" PRIu64, start);
   snprintf(sectors, sizeof sectors, "%" PRIu64, count);
   snprintf(chunk_sectors, sizeof chunk_sectors, "%" PRIu64, chunk);
   error = request(handle->connection->wire, &reply, fields);
   if (error)
      return error;
   blocks = reply.length / sizeof(VixDiskLibBlock);
   *list = malloc(sizeof **list + blocks * sizeof(VixDiskLibBlock));
   if (*list) {
      (*list)->numBlocks = (uint32_t)blocks;
      memcpy((*list)->blocks, reply.bytes, blocks * sizeof(VixDiskLibBlock)); /* both are little-endian */
   }
   free(reply.bytes);
   return *list ? VIX_OK : VIX_E_OUT_OF_MEMORY;
}

VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list)
{
   free(list);
   return VIX_OK;
}
