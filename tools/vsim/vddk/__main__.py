"""Build a VDDK library directory for the simulator: `python -m tools.vsim.vddk DIR READY`."""

import argparse
import json
from pathlib import Path

from tools.vsim.vddk.build import build, point_at

DESCRIPTION = "Build a library directory for programs that use VMware's VDDK."


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="tools.vsim.vddk", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="create lib64 here; pass it as libdir")
    parser.add_argument("ready", type=Path, help="ready.json of the simulator")
    options = parser.parse_args()
    ready = json.loads(options.ready.read_text())
    build(options.folder)
    point_at(options.folder, ready["host"], ready["vddk_port"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
