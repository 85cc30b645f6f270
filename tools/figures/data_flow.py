"""Data flow of cbtfs: from the disks of a VM through the repository to readers."""

from typing import Final

from tools.figures.svg import Canvas

SOURCE: Final = "#dbeafe"
INGEST: Final = "#e3f9e5"
STORE: Final = "#fff3c4"
READ: Final = "#fde8e8"
OUT: Final = "#f0f4f8"


def draw() -> str:
    """Return the figure as an SVG document."""
    canvas = Canvas(1080, 500)
    canvas.group(20, 20, 210, 460, "sources")
    canvas.box(40, 60, 170, 70, "vSphere", "snapshot, CBT list", fill=SOURCE)
    canvas.box(40, 170, 170, 70, "NBD server", "dirty bitmap", fill=SOURCE)
    canvas.box(40, 280, 170, 70, "image, device", "change list or none", fill=SOURCE)
    canvas.box(40, 390, 170, 70, "repository's base", "newest point of the disk", fill=SOURCE)

    canvas.group(270, 20, 210, 460, "ingest")
    canvas.box(290, 60, 170, 70, "plan", "which extents to read", fill=INGEST)
    canvas.box(290, 170, 170, 70, "audit", "sample of the rest", fill=INGEST)
    canvas.box(290, 280, 170, 70, "capture", "read, digest, compress", fill=INGEST)
    canvas.box(290, 390, 170, 70, "commit", "flush, then manifest", fill=INGEST)
    canvas.arrow((210, 95), (290, 95))
    canvas.arrow((210, 205), (250, 205), (250, 105), (290, 105))
    canvas.arrow((210, 315), (250, 315), (250, 115), (290, 115))
    canvas.arrow((210, 425), (260, 425), (260, 205), (290, 205))
    canvas.arrow((375, 130), (375, 170))
    canvas.arrow((375, 240), (375, 280))
    canvas.arrow((375, 350), (375, 390))

    canvas.group(520, 20, 230, 460, "repository")
    canvas.box(540, 60, 190, 70, "catalog (LMDB)", "derived: digest to location", fill=STORE)
    canvas.box(540, 215, 190, 80, "packs", "chunks and nodes", "in verified frames", fill=STORE)
    canvas.box(540, 390, 190, 70, "points", "manifest: root of each disk", fill=STORE)
    canvas.arrow((460, 315), (500, 315), (500, 255), (540, 255), label="1", at=(520, 248))
    canvas.arrow((460, 425), (540, 425), label="2", at=(520, 418))
    canvas.arrow((460, 405), (510, 405), (510, 95), (540, 95), label="3", at=(526, 88))

    canvas.group(790, 20, 270, 460, "readers")
    canvas.box(
        810, 60, 110, 180, "reader", "root to leaf,", "then chunk;", "verifies all", fill=READ
    )
    canvas.box(950, 60, 90, 70, "mount", "FUSE, C", fill=OUT)
    canvas.box(950, 170, 90, 70, "restore", "file, device", fill=OUT)
    canvas.box(810, 280, 230, 70, "extents, diff", "walk of block maps", fill=OUT)
    canvas.box(810, 390, 230, 70, "check", "every digest, every map", fill=OUT)
    canvas.arrow((730, 95), (810, 95))
    canvas.arrow((730, 240), (770, 240), (770, 180), (810, 180))
    canvas.arrow((730, 415), (780, 415), (780, 215), (810, 215))
    canvas.arrow((920, 95), (950, 95))
    canvas.arrow((920, 205), (950, 205))
    canvas.arrow((865, 240), (865, 280))
    canvas.arrow((730, 435), (810, 435))
    return canvas.render()
