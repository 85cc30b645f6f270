"""Datastore access over HTTPS: GET /folder/<directory>/<file>?dcPath=…&dsName=…

Answers Range with 206 and Content-Range, lists directories as HTML, and wants either the session
cookie or Basic authentication (vSphere API reference, FileManager).
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
    """An answer, whose body may be a part of a file."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | int = b""  # bytes, or an open file
    start: int = 0
    length: int = 0
    cut: int = 0  # bytes to leave out at the end before closing the connection

    def pieces(self) -> Iterator[bytes]:
        """The body; closes the file."""
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
        if isinstance(self.content, int):
            os.close(self.content)


def refused(status: int, text: str, **headers: str) -> Sending:
    body = text.encode()
    return Sending(status, {"Content-Type": "text/plain", **headers}, body, 0, len(body))


class FolderService:
    """Answers requests below /folder."""

    def __init__(self, site: SimulatedSite) -> None:
        self._site = site

    def answer(self, target: str, headers: Mapping[str, str]) -> Sending:
        """What to send; the world's lock is held only while the file is looked up."""
        url = urlsplit(target)
        query = parse_qs(url.query)
        directory = unquote(url.path.removeprefix("/folder")).strip("/")
        with self._site.world.lock:
            session = self._session(headers)
            if session is None:
                return refused(401, "unauthorized", **{"WWW-Authenticate": 'Basic realm="vsim"'})
            if not session.allows(PRIVILEGE):
                return refused(403, f"needs {PRIVILEGE}")
            path = query.get("dcPath", [""])[0].strip("/")
            store = self._site.world.datastores.get(query.get("dsName", [""])[0])
            if store is None or not self._leads_to(path, store.datacenter):
                return refused(404, "no such datacenter or datastore")
            file = self._site.files.find(f"[{store.name}] {directory}")
            if file is None:
                return self._listing(store.name, directory, url.query)
            return self._file(file, headers.get("Range"))

    def _leads_to(self, path: str, datacenter: str) -> bool:
        """Whether dcPath names the datacenter; a host has only one and need not be told."""
        if not self._site.world.is_vcenter and path in ("", "ha-datacenter"):
            return True
        folder = self._site.world.datacenter_folders.get(datacenter)
        return path == (f"{folder}/{datacenter}" if folder else datacenter)

    def _session(self, headers: Mapping[str, str]) -> ClientSession | None:
        found = COOKIE.search(headers.get("Cookie", ""))
        session = self._site.sessions.active(found[1] if found else None)
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
            return refused(404, "no such file")
        rows = []
        for name, file in sorted(names.items()):
            path = quote(f"/folder/{directory}/{name}".replace("//", "/")) + ("" if file else "/")
            size = str(file.size) if file else ""
            link = f'<a href="{path}?{html.escape(query)}">{html.escape(name)}</a>'
            rows.append(f"<tr><td>{link}</td><td>{size}</td></tr>")
        text = f"<html><body><table>{''.join(rows)}</table></body></html>"
        return Sending(200, {"Content-Type": "text/html"}, text.encode(), 0, len(text.encode()))

    def _file(self, file: DatastoreFile, asked: str | None) -> Sending:
        knobs = self._site.world.knobs
        if file.locked:
            return refused(knobs.data.locked_status, "the file is locked by a running machine")
        if file.content is None:
            return refused(501, "vsim does not simulate the format of this file")
        start, end, status = 0, file.size, 200
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if asked and knobs.data.ranges:
            found = RANGE.match(asked)
            if not found or not (found[1] or found[2]):
                return refused(400, "not a range")
            if found[1]:
                start = int(found[1])
                end = min(int(found[2]) + 1 if found[2] else file.size, file.size)
            else:
                start = max(0, file.size - int(found[2]))
            if start >= end:
                return refused(416, "range", **{"Content-Range": f"bytes */{file.size}"})
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
