/* Constants of the repository format. Their source is docs/format.md. */
#ifndef CBTFS_FORMAT_H
#define CBTFS_FORMAT_H

enum {
    FANOUT = 64,               /* chunks of a leaf */
    DIGEST_BYTES = 32,
    PREFIX_BYTES = 8,          /* a chunk's digest covers this prefix and the content */
    PIECE_BYTES = 4096,        /* a raw chunk has a CRC-32 for each piece */
    MAX_CHUNK_BYTES = 1 << 22, /* no decoded object is larger */
    CODEC_STORED = 0,
    CODEC_ZSTD = 1,
};

#endif
