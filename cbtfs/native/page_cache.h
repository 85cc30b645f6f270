/* Whether the page cache has a range of a file. */
#ifndef CBTFS_PAGE_CACHE_H
#define CBTFS_PAGE_CACHE_H

#include <stddef.h>
#include <sys/types.h>

/* Return 1 if all pages of a range of a file are cached, 0 if not, -1 with errno set if that is unknown. */
int page_cache_has(int fd, off_t offset, size_t length);

#endif
