"""Replacement of `nbdkit vddk` with VMware's library: same parameters, serves a snapshot disk.

In the directory of libdir=, disks.json has the raw image for each "snapshot path". The program
writes the parameters that it was started with into the same directory.
"""

import json
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.vsim.data.nbd import Closed, Conversation
from tools.vsim.knobs import DataKnobs


@dataclass
class Image:
    fd: int
    size: int
    announced: int

    def on_read(self, start: int, end: int) -> None:
        return None

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class Images:
    path: Path
    knobs: DataKnobs = field(default_factory=DataKnobs)

    def names(self) -> list[str]:
        return [""]

    def open(self, name: str) -> Image:
        size = self.path.stat().st_size
        return Image(os.open(self.path, os.O_RDONLY), size, size)


def serve(stream: socket.socket, images: Images) -> None:
    with stream, stream.makefile("rwb") as file:
        talk = Conversation(file, images)  # type: ignore[arg-type]
        try:
            talk.run()
        except (Closed, OSError):
            pass
        finally:
            if talk.export:
                talk.export.close()


def main() -> int:
    if "--dump-plugin" in sys.argv:
        print("name=vddk")
        return 0
    options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
    library = Path(options["libdir"])
    kind, _, number = options["password"].partition("-")
    password = os.read(int(number), 1000).decode()
    started: dict[str, Any] = {
        "command": Path("/proc/self/cmdline").read_bytes().decode("utf-8", "replace"),
        "environment": dict(os.environ),
        "password": password,
        "options": options,
        "plain": kind,
    }
    (library / f"started-{os.getpid()}.json").write_text(json.dumps(started))
    disks = json.loads((library / "disks.json").read_text())
    image = disks.get(f"{options['snapshot']} {options['file']}")
    if image is None:
        print(f"nbdkit: vddk: wrong password {password} or no such disk", file=sys.stderr)
        return 1
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(options["unix"])
        listener.listen(8)
        Path(options["pidfile"]).write_text(str(os.getpid()))
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=serve, args=(stream, Images(Path(image))), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
