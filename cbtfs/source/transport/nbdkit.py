"""The nbd transport through VMware's library: one `nbdkit vddk` process per disk.

nbdkit and its vddk plugin are free software; the user installs VMware's library (VDDK). The
password is passed by a file descriptor, so that neither the process list nor a file shows it.
nbdkit-vddk-plugin(1) describes the parameters.
"""

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cbtfs import process
from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.nbd import NbdLimits
from cbtfs.source.secret import Secret
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.nbd import open_export
from cbtfs.source.transport.nfc_buffers import NfcHosts, NfcReader
from cbtfs.source.vsphere.connect.role import Use

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.02
_CONNECTIONS: Final = 2
"""NBD connections per disk. Each is an NFC connection of the host, which are few (VDDK Programming
Guide, NBD)."""
_PROBE_SECONDS: Final = 60
_LOG_TAIL: Final = 4096
"""Number of bytes at the end of nbdkit's log in which the last line is searched."""


class NbdkitTransport:
    """Reads disks through nbdkit processes that it starts and ends."""

    name = "nbd"
    access = None
    privileges: frozenset[Use] = frozenset({"vddk"})

    def __init__(
        self, login: VddkLogin, program: str = "nbdkit", hosts: NfcHosts | None = None
    ) -> None:
        self._login = login
        self._hosts = hosts or NfcHosts()
        self._program = program
        self._refusal: str | None = None
        self._is_probed = False

    def connections(self) -> int:
        return _CONNECTIONS if self._usability() is None else 0

    def refusal(self, disk: TransportDisk) -> str | None:
        return self._usability()

    def _usability(self) -> str | None:
        if not self._is_probed:
            self._refusal = self._probe()
            self._is_probed = True
        return self._refusal

    def _probe(self) -> str | None:
        """Return which of nbdkit, its plugin and the library is missing; None if none is."""
        program = process.find_program(self._program)
        if program is None:
            return "nbdkit is not installed, and no --nbd-uri is given"
        command = [program, "vddk", f"libdir={self._login.libdir}", "--dump-plugin"]
        try:
            done = process.run(command, _PROBE_SECONDS, env=_environment())
        except OSError as exc:
            return f"cannot run {program}: {exc.strerror}"
        except process.TimeoutExpired:
            return f"{program} did not describe its vddk plugin in {_PROBE_SECONDS} s"
        self._program = program
        if done.returncode or "name=vddk" not in done.stdout:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            return f"nbdkit has no working vddk plugin: {lines[-1]}"
        return None

    def open(self, disk: TransportDisk) -> DiskReader:
        reader = _VddkReader(self._program, self._login, disk)
        return NfcReader(reader, self._hosts.of(disk.host))


def _environment() -> dict[str, str]:
    """Return a child's environment with LD_LIBRARY_PATH, which the plugin may need."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return process.environment(**({} if path is None else {"LD_LIBRARY_PATH": path}))


class _VddkReader:
    """One disk: its nbdkit process and the NBD connection."""

    mode = "nbdkit"

    def __init__(self, program: str, login: VddkLogin, disk: TransportDisk) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cbtfs-nbdkit-"))
        self._process: process.Popen[bytes] | None = None
        try:
            self._start(program, login, disk)
            uri = f"nbd+unix:///?socket={quote(str(self._folder / 'socket'))}"
            limits = NbdLimits(_CONNECTIONS, login.seconds, sleep=login.sleep)
            self._reader = open_export(uri, disk, limits)
        except Stopped:
            self._end(None)
            raise
        except SourceUnavailable as exc:
            line = self._end(login.password)
            raise SourceUnavailable(f"{exc}{f' ({line})' if line else ''}") from exc
        except BaseException:
            self._end(login.password)
            raise
        self.size = self._reader.size

    def _start(self, program: str, login: VddkLogin, disk: TransportDisk) -> None:
        password = os.memfd_create("password")  # only the child below inherits it
        try:
            os.write(password, login.password.reveal().encode())
            os.lseek(password, 0, os.SEEK_SET)
            command = [
                program,
                "--foreground",
                "--exit-with-parent",
                "--readonly",
                f"--unix={self._folder / 'socket'}",
                f"--pidfile={self._folder / 'pid'}",
                "--filter=blocksize",
                "vddk",
                "minblock=512",
                "maxdata=2M",
                f"libdir={login.libdir}",
                f"server={login.server}",
                f"port={login.port}",
                f"user={login.user}",
                f"password=-{password}",
                f"thumbprint={login.thumbprint()}",
                f"vm=moref={disk.vm}",
                f"snapshot={disk.snapshot}",
                f"file={disk.path}",
            ]
            with (self._folder / "log").open("xb") as output:
                self._process = process.start(
                    command,
                    stdout=output,
                    stderr=output,
                    env=_environment(),
                    pass_fds=(password,),
                )
        finally:
            os.close(password)
        self._wait_ready(login)

    def _wait_ready(self, login: VddkLogin) -> None:
        """Wait for the PID file, which nbdkit writes when it listens."""
        assert self._process is not None
        due = time.monotonic() + login.seconds
        while not (self._folder / "pid").exists():
            if self._process.poll() is not None:
                raise SourceUnavailable(f"nbdkit exited with code {self._process.returncode}")
            if time.monotonic() > due:
                raise SourceUnavailable(f"nbdkit was not ready in {login.seconds:.0f} s")
            login.sleep(_POLL_SECONDS)

    def allocated(self) -> Sequence[Extent]:
        return self._reader.allocated()

    def read(self, extent: Extent) -> bytes | memoryview:
        return self._reader.read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        self._reader.read_into(extent, parts)

    def close(self) -> None:
        self._reader.close()
        self._end(None)

    def _end(self, secret: Secret | None) -> str:
        """End the process and remove its folder; return its last log line without *secret*."""
        child = self._process
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except process.TimeoutExpired:
                child.kill()
                child.wait()
        line = ""
        with suppress(OSError):
            text = (self._folder / "log").read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
            line = (text.strip().splitlines() or [""])[-1]
        shutil.rmtree(self._folder, ignore_errors=True)
        if secret is not None and secret.reveal():
            line = line.replace(secret.reveal(), "…")
        return line
