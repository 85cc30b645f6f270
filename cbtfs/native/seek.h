/* SEEK_DATA and SEEK_HOLE: where the data and the holes of a file are. */
#ifndef CBTFS_SEEK_H
#define CBTFS_SEEK_H

#include "fuse.h"

/* Answer *seek* if the map of the file is known up to the result. Otherwise advance seek->position to the first
 * unknown byte and return false. */
bool requests_try_seek(requests *requests, fuse_seek *seek);
/* Answer *seek* for a file of *size* bytes without holes. */
void requests_seek_dense(requests *requests, const fuse_seek *seek, uint64_t size);
/* Answer *seek* by the range that was searched: a program that asks again continues at its end. */
void requests_seek_bounded(requests *requests, const fuse_seek *seek);

#endif
