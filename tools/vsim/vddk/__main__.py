"""`python -m tools.vsim.vddk DIR READY`: a libdir for programs that use VMware's VDDK."""

import argparse
import json
from pathlib import Path

from tools.vsim.vddk.build import build, point_at


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.vsim.vddk", description=__doc__)
    parser.add_argument("folder", type=Path, help="where lib64 is made; give it as libdir")
    parser.add_argument("ready", type=Path, help="ready.json of the simulator")
    options = parser.parse_args()
    ready = json.loads(options.ready.read_text())
    build(options.folder)
    point_at(options.folder, ready["host"], ready["vddk_port"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
