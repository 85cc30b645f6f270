/* Memory for keys: core dumps leave it out, and it is not swapped as far as RLIMIT_MEMLOCK permits. */
#ifndef CBTFS_SECRET_H
#define CBTFS_SECRET_H

#include <stddef.h>

enum { SECRET_MAX_BYTES = 128 };

/* Return *size* bytes of zeros, at most SECRET_MAX_BYTES, or NULL. */
void *secret_new(size_t size);
/* Erase and free memory of secret_new(). NULL is allowed. */
void secret_free(void *memory);

#endif
