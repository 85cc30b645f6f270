/* The part of VMware's Virtual Disk Development Kit that backup programs call: its ABI on 64-bit Linux.
 *
 * Independently written from public facts, without code from VMware. Sources:
 *
 *  [guide]   VDDK Programming Guide 8.0, developer.broadcom.com: behaviour and order of functions
 *  [nbdkit]  nbdkit 1.42, plugins/vddk/vddk-structs.h and vddk-stubs.h: layouts and signatures, which its
 *            authors test with VDDK 6.5 to 8.0
 *  [errors]  VDDK 6.7, doc/errors/errors.html: error codes; 14014 and 14015 since VDDK 7.0.1
 */

#ifndef VIX_DISK_LIB_H
#define VIX_DISK_LIB_H

#include <stdarg.h>
#include <stdint.h>

/* An error has 64 bits. The lowest 16 are its code; the others are undefined. [guide: Interpreting Errors] */
typedef uint64_t VixError;

enum {
   VIX_OK = 0,                             /* [errors] */
   VIX_E_FAIL = 1,                         /* [errors] also a wrong thumbprint, but only from Open */
   VIX_E_OUT_OF_MEMORY = 2,                /* [errors] NFC error 5: the host cannot allocate the buffer */
   VIX_E_INVALID_ARG = 3,                  /* [errors] */
   VIX_E_FILE_NOT_FOUND = 4,               /* [errors] */
   VIX_E_OBJECT_IS_BUSY = 5,               /* [errors] another call uses the handle */
   VIX_E_NOT_SUPPORTED = 6,                /* [errors] */
   VIX_E_FILE_ERROR = 7,                   /* [errors] */
   VIX_E_HOST_CONNECTION_LOST = 36,        /* [errors] */
   VIX_E_HOST_USER_PERMISSIONS = 3014,     /* [errors] wrong user or password, or a missing privilege */
   VIX_E_INVALID_AUTHENTICATION_SESSION = 3047, /* [errors] */
   VIX_E_SNAPSHOT_NOTFOUND = 13003,        /* [errors] */
   VIX_E_HOST_TCP_CONN_LOST = 14011,       /* [errors] */
   VIX_E_HOST_SERVER_SHUTDOWN = 14014,     /* [guide: maintenance mode] retry later */
   VIX_E_HOST_SERVER_NOT_AVAILABLE = 14015, /* [guide: maintenance mode] retry later */
   VIX_E_DISK_OUTOFRANGE = 16007,          /* [errors] */
   VIX_E_CANNOT_CONNECT_TO_HOST = 18000,   /* [errors] */
   VIX_ASYNC = 25000,                      /* [guide: ReadAsync] the operation completes later */
};

#define VIXDISKLIB_SECTOR_SIZE 512               /* [nbdkit] unit of Read and QueryAllocatedBlocks */
#define VIXDISKLIB_MIN_CHUNK_SIZE 128            /* [nbdkit] sectors */
#define VIXDISKLIB_MAX_CHUNK_NUMBER (512 * 1024) /* [nbdkit] maximum of one QueryAllocatedBlocks */

enum { /* [nbdkit] flags of Open */
   VIXDISKLIB_FLAG_OPEN_UNBUFFERED = 1,
   VIXDISKLIB_FLAG_OPEN_SINGLE_LINK = 2,
   VIXDISKLIB_FLAG_OPEN_READ_ONLY = 4,
   VIXDISKLIB_FLAG_OPEN_COMPRESSION_ZLIB = 16,
   VIXDISKLIB_FLAG_OPEN_COMPRESSION_FASTLZ = 32,
   VIXDISKLIB_FLAG_OPEN_COMPRESSION_SKIPZ = 64,
};

typedef struct Connection *VixDiskLibConnection; /* [nbdkit] opaque pointers */
typedef struct Handle *VixDiskLibHandle;

/* Called from any thread. Must not be NULL in a program with threads. [guide: Multithreading Considerations] */
typedef void VixDiskLibGenericLogFunc(const char *fmt, va_list args); /* [nbdkit] */

typedef void (*VixDiskLibCompletionCB)(void *data, VixError result); /* [nbdkit] */

enum VixDiskLibCredType { /* [nbdkit] */
   VIXDISKLIB_CRED_UID = 1,
   VIXDISKLIB_CRED_SESSIONID = 2,
   VIXDISKLIB_CRED_TICKETID = 3,
   VIXDISKLIB_CRED_SSPI = 4,
   VIXDISKLIB_CRED_UNKNOWN = 256,
};

enum VixDiskLibSpecType { /* [nbdkit] */
   VIXDISKLIB_SPEC_VMX = 0,
   VIXDISKLIB_SPEC_VSTORAGE_OBJECT = 1,
   VIXDISKLIB_SPEC_UNKNOWN = 2,
};

/* [nbdkit] VDDK 6.7 added members after nfcHostPort, so programs call AllocateConnectParams */
typedef struct VixDiskLibConnectParams {
   char *vmxSpec;    /* moref=vm-123 [guide: VMX Specification] */
   char *serverName;
   char *thumbPrint; /* SHA-1 of the server's certificate, AA:BB:… [guide] */
   long reserved1;
   enum VixDiskLibCredType credType;
   union {
      struct { char *userName; char *password; } uid;
      struct { char *cookie; char *userName; char *key; } sessionId;
      void *reserved2;
   } creds;
   uint32_t port;
   uint32_t nfcHostPort;
   char *reserved3;
   char reserved4[8];
   void *reserved5;
   union {
      struct { char *id; char *datastoreMoRef; char *ssId; } vStorageObjSpec;
   } spec;
   enum VixDiskLibSpecType specType;
} VixDiskLibConnectParams;

typedef struct { uint32_t cylinders, heads, sectors; } VixDiskLibGeometry; /* [nbdkit] */

typedef struct VixDiskLibInfo { /* [nbdkit] */
   VixDiskLibGeometry biosGeo;
   VixDiskLibGeometry physGeo;
   uint64_t capacity; /* sectors */
   int adapterType;
   int numLinks;
   char *parentFileNameHint;
   char *uuid;
   uint32_t logicalSectorSize;  /* since 7.0 */
   uint32_t physicalSectorSize; /* since 7.0 */
} VixDiskLibInfo;

typedef struct { uint64_t offset, length; } VixDiskLibBlock; /* [nbdkit] sectors */

typedef struct { /* [nbdkit] */
   uint32_t numBlocks;
   VixDiskLibBlock blocks[1];
} VixDiskLibBlockList;

/* In the order of calls of [guide: Advanced Transport APIs]. Signatures: [nbdkit], unless another source is given. */

VixError VixDiskLib_InitEx(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log,
                           VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                           const char *libDir, const char *configFile); /* once per process, from its main thread */
void VixDiskLib_Exit(void);
const char *VixDiskLib_ListTransportModes(void); /* [guide] file:san:hotadd:nbdssl:nbd; do not free it */
char *VixDiskLib_GetErrorText(VixError err, const char *locale);
void VixDiskLib_FreeErrorText(char *text);

VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void);       /* since 6.7 */
void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params);
/* [guide: Prepare For Access] Disables RelocateVM_Task. Call it before the snapshot is taken; identity has at most 50
 * characters; vCenter only. Call EndAccess after the snapshot is removed, or to clean up after a crash. */
VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *params, const char *identity);
VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *params, const char *identity);
/* [guide: Cleanup] vmxSpec must be NULL */
VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *params, uint32_t *cleaned, uint32_t *remaining);

VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, char readOnly, const char *snapshotRef,
                              const char *transportModes, VixDiskLibConnection *connection);
VixError VixDiskLib_Disconnect(VixDiskLibConnection connection);
/* [guide: Multithreading Considerations] One thread makes all calls of Open and Close. A handle has one reader. */
VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32_t flags,
                         VixDiskLibHandle *handle);
VixError VixDiskLib_Close(VixDiskLibHandle handle);
VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info);
void VixDiskLib_FreeInfo(VixDiskLibInfo *info);
const char *VixDiskLib_GetTransportMode(VixDiskLibHandle handle); /* the mode in use, not the requested one */
VixError VixDiskLib_Read(VixDiskLibHandle handle, uint64_t start, uint64_t count, unsigned char *buffer);
VixError VixDiskLib_ReadAsync(VixDiskLibHandle handle, uint64_t start, uint64_t count, unsigned char *buffer,
                              VixDiskLibCompletionCB callback, void *data); /* since 6.0 */
VixError VixDiskLib_Wait(VixDiskLibHandle handle);                        /* since 6.5 */
VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle handle, uint64_t start, uint64_t count,
                                         uint64_t chunk, VixDiskLibBlockList **list); /* since 6.7 */
VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list);

#endif
