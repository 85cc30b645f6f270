"""Datastore access over HTTPS: GET /folder/<directory>/<file>?dcPath=…&dsName=…

The service supports Range (206 and Content-Range) and lists directories as HTML. It requires the
session cookie or Basic authentication (vSphere API reference, FileManager).
"""

import base64
import binascii
import html
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tools.vsim.api.base import ClientSession
from tools.vsim.api.site import SimulatedSite
from tools.vsim.data.files import DatastoreFile
from tools.vsim.fault import Fault
from tools.vsim.model.image import read_padded
from tools.vsim.server.dispatch import COOKIE

PIECE = 1 << 20
RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
PRIVILEGE = "Datastore.Browse"


@dataclass(frozen=True, slots=True)
class Sending:
    """An HTTP response whose body may be a part of a file."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | int = b""  # bytes, or a file descriptor
    start: int = 0
    length: int = 0
    cut: int = 0  # bytes to omit at the end; then the connection closes

    def pieces(self) -> Iterator[bytes]:
        """Yield the body, then close the file."""
        if isinstance(self.content, bytes):
            yield self.content[self.start : self.start + self.length - self.cut]
            return
        try:
            end = self.start + self.length - self.cut
            for position in range(self.start, end, PIECE):
                yield read_padded(self.content, position, min(PIECE, end - position))
        finally:
            self.close()

    def close(self) -> None:
        """Close the file, if the body is one."""
        if isinstance(self.content, int):
            os.close(self.content)


def refused(status: int, text: str, **headers: str) -> Sending:
    """Return an error response with a text body."""
    body = text.encode()
    return Sending(status, {"Content-Type": "text/plain", **headers}, body, 0, len(body))


class FolderService:
    """Answers requests for /folder."""

    def __init__(self, site: SimulatedSite) -> None:
        self._site = site

    def answer(self, target: str, headers: Mapping[str, str]) -> Sending:
        """Return the response; the world's lock is held only for the lookup of the file."""
        url = urlsplit(target)
        query = parse_qs(url.query)
        directory = unquote(url.path.removeprefix("/folder")).strip("/")
        with self._site.world.lock:
            session = self._session(headers)
            if session is None:
                return refused(401, "unauthorized", **{"WWW-Authenticate": 'Basic realm="vsim"'})
            if not session.allows(PRIVILEGE):
                return refused(403, f"privilege {PRIVILEGE} is required")
            path = query.get("dcPath", [""])[0].strip("/")
            store = self._site.world.datastores.get(query.get("dsName", [""])[0])
            if store is None or not self._leads_to(path, store.datacenter):
                return refused(404, "datacenter or datastore does not exist")
            file = self._site.files.find(f"[{store.name}] {directory}")
            if file is None:
                return self._listing(store.name, directory, url.query)
            return self._file(file, headers.get("Range"))

    def _leads_to(self, path: str, datacenter: str) -> bool:
        """Return whether dcPath names the datacenter; a standalone host needs no dcPath."""
        if not self._site.world.is_vcenter and path in ("", "ha-datacenter"):
            return True
        folder = self._site.world.datacenter_folders.get(datacenter)
        return path == (f"{folder}/{datacenter}" if folder else datacenter)

    def _session(self, headers: Mapping[str, str]) -> ClientSession | None:
        cookie = COOKIE.search(headers.get("Cookie", ""))
        session = self._site.sessions.active(cookie[1] if cookie else None)
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if session or scheme != "Basic":
            return session
        try:
            name, _, password = base64.b64decode(credentials).decode().partition(":")
            session = self._site.sessions.open(name, password)
        except (Fault, binascii.Error, UnicodeDecodeError):
            return None
        self._site.sessions.close(session)
        return session

    def _listing(self, datastore: str, directory: str, query: str) -> Sending:
        names = self._site.files.below(datastore, directory)
        if not names and directory:
            return refused(404, "file does not exist")
        rows = []
        for name, file in sorted(names.items()):
            path = quote(f"/folder/{directory}/{name}".replace("//", "/")) + ("" if file else "/")
            size = str(file.size) if file else ""
            link = f'<a href="{path}?{html.escape(query)}">{html.escape(name)}</a>'
            rows.append(f"<tr><td>{link}</td><td>{size}</td></tr>")
        text = f"<html><body><table>{''.join(rows)}</table></body></html>"
        return Sending(200, {"Content-Type": "text/html"}, text.encode(), 0, len(text.encode()))

    def _file(self, file: DatastoreFile, range_header: str | None) -> Sending:
        knobs = self._site.world.knobs
        if file.locked:
            return refused(knobs.data.locked_status, "a running machine has locked the file")
        if file.content is None:
            return refused(501, "vsim does not simulate the format of this file")
        start, end, status = 0, file.size, 200
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if range_header and knobs.data.ranges:
            match = RANGE.match(range_header)
            if not match or not (match[1] or match[2]):
                return refused(400, "invalid Range header")
            if match[1]:
                start = int(match[1])
                end = min(int(match[2]) + 1 if match[2] else file.size, file.size)
            else:
                start = max(0, file.size - int(match[2]))
            if start >= end:
                return refused(
                    416,
                    "range past the end",
                    **{"Content-Range": f"bytes */{file.size}"},
                )
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        rule = self._site.world.on_read(start, end, file.path)
        if rule and rule.action == "eio":
            return refused(500, "input/output error")
        content = (
            os.open(file.content, os.O_RDONLY) if isinstance(file.content, Path) else file.content
        )
        cut = max(1, (end - start) // 2) if rule and rule.action in ("close", "short") else 0
        return Sending(status, headers, content, start, end - start, cut)
