"""A qemu-storage-daemon with a writable disk and exports of its state at past moments."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass
class Daemon:
    """One qcow2 disk; point() exports its current state, with the bitmap that ends there."""

    folder: Path
    process: "subprocess.Popen[str]"
    points: int = 0
    jobs: dict[str, str] = field(default_factory=dict)
    """Last status of each job."""

    @property
    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the monitor's answer; events before it only update the jobs."""
        commands, answers = self._streams
        commands.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        commands.flush()
        while True:
            answer = json.loads(answers.readline())
            if answer.get("event") == "JOB_STATUS_CHANGE":
                self.jobs[answer["data"]["id"]] = answer["data"]["status"]
            if "return" in answer or "error" in answer:
                assert "error" not in answer, answer
                return answer["return"]

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.folder / 'nbd.sock'}"

    def io(self, *commands: str) -> None:
        """Write to the disk, as its guest would."""
        arguments = [part for command in commands for part in ("-c", command)]
        command = ["qemu-io", "-f", "raw", "-d", "unmap", *arguments, self.uri("live")]
        subprocess.run(command, check=True, capture_output=True)

    def point(self) -> str:
        """Return the URI of a view of the disk's current state; docs/recipes.md has the commands.

        The bitmap b<n> starts at view n, and is exported with view n + 1.
        """
        self.points += 1
        number, name = self.points, f"p{self.points}"
        file = {"driver": "file", "filename": str(self.create(name))}
        self.ask("blockdev-add", driver="qcow2", **{"node-name": name}, file=file, backing="disk")
        actions = [
            {
                "type": "blockdev-backup",
                "data": {"job-id": name, "device": "disk", "target": name, "sync": "none"},
            },
            {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": f"b{number}"}},
        ]
        bitmaps = []
        if number > 1:
            last = {"node": "disk", "name": f"b{number - 1}"}
            actions.append({"type": "block-dirty-bitmap-disable", "data": last})
            bitmaps = [last]
        self.ask("transaction", actions=actions)
        export = {"type": "nbd", "id": name, "node-name": name, "name": name}
        self.ask("block-export-add", **export, bitmaps=bitmaps)
        return self.uri(name)

    def create(self, view: str) -> Path:
        """Create the file of a view, empty; its backing file is the disk."""
        scratch = self.folder / f"{view}.qcow2"
        _create(scratch, "-F", "qcow2", "-b", str(self.folder / "disk.qcow2"))
        return scratch

    def end(self) -> None:
        """Remove the last view; while it exists, QEMU drops the discards of the guest."""
        name = f"p{self.points}"
        self.ask("block-export-del", id=name, mode="hard")
        self.ask("job-cancel", id=name)
        while self.jobs[name] != "null":
            self.ask("query-jobs")
        self.ask("blockdev-del", **{"node-name": name})

    def converted(self, uri: str) -> bytes:
        """Return all bytes of an export, as read by qemu-img."""
        target = self.folder / "converted.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", uri, str(target)], check=True)
        return target.read_bytes()


def _create(path: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path)], check=True)


@contextmanager
def storage_daemon(folder: Path, size: int) -> Iterator[Daemon]:
    """Run a daemon with an empty disk of *size* bytes, writable as the export `live`."""
    folder.mkdir()
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(size)], check=True)
    command = [
        "qemu-storage-daemon",
        *("--chardev", "stdio,id=monitor", "--monitor", "monitor"),
        "--blockdev",
        f"driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.filename={disk}",
        *("--nbd-server", f"addr.type=unix,addr.path={folder / 'nbd.sock'}"),
        *("--export", "type=nbd,id=live,node-name=disk,writable=on,name=live"),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            daemon = Daemon(folder, process)
            assert "QMP" in daemon._streams[1].readline()
            daemon.ask("qmp_capabilities")
            yield daemon
        finally:
            process.kill()


@contextmanager
def qemu_nbd(image: Path, *options: str, is_read_only: bool = True) -> Iterator[str]:
    """Serve *image*, of any format, as an export; return its URI."""
    socket = image.with_suffix(".sock")
    pid = image.with_suffix(".pid")
    access = ["--read-only"] if is_read_only else []
    command = ["qemu-nbd", *access, "--persistent", "--fork", f"--pid-file={pid}"]
    subprocess.run([*command, f"--socket={socket}", *options, str(image)], check=True)
    process = int(pid.read_text())
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        subprocess.run(["kill", str(process)], check=False)
