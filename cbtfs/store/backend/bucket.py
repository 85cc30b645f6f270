"""Requests to an S3 bucket, repeated for a bounded time. The only module that uses obstore.

obstore runs requests in threads of its own, which a fork does not copy: a process that has sent a
request must not fork and then send another one from the child. So the client is made at the first
request.

Requests are repeated here and not by obstore, because a create that is repeated can meet its own
first attempt. Texts of obstore's errors may contain keys of the server's reply: messages have only
the status and the code of S3.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from cbtfs.errors import AccessDenied, UsageError
from cbtfs.store.backend.aws import S3Access
from cbtfs.store.backend.base import Content, Head, NoReply, Throttled

log = logging.getLogger(__name__)

SCHEME: Final = "s3://"
SETTINGS_KEY: Final = "repository.json"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}\Z")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._/-]*\Z")
_PAGE: Final = 1000
"""Names in a page of a listing; servers return at most 1,000."""
_BULK_BYTES: Final = 1 << 20
"""Objects from this size on have the time-out of large requests."""
_NO_BUCKET: Final = "NoSuchBucket"
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_BUSY: Final = (404, 409, 429, 500, 502, 503, 504)
"""Statuses after which a request is repeated. 404: to a listing, which is never absent; for objects
it is a FileNotFoundError. 409: another request for the key is under way."""

_REDIRECT: Final = "redirect without LOCATION"
"""Part of obstore's text for a redirect to the server of another region."""
_BAD_NAME: Final = "object with invalid path"
"""Part of obstore's text for a listed name with an empty part, or one of dots."""
_BAD_KEYS: Final = ("ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed")
"""Codes of status 400 that mean wrong credentials or a wrong region."""

Result = TypeVar("Result")


class NoBucket(OSError):
    """Raised if a bucket does not exist."""


@dataclass(frozen=True, slots=True)
class BucketUrl:
    """The address s3://BUCKET/PREFIX."""

    bucket: str
    prefix: str = ""
    """Without a slash at either end; may be empty."""

    @classmethod
    def parse(cls, text: str) -> BucketUrl:
        """Return the address in *text*; UsageError if it is invalid."""
        bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
        prefix = prefix.strip("/")
        parts = prefix.split("/") if prefix else []
        is_valid = _PREFIX.match(prefix) and not {"", ".", ".."} & {*parts} and len(prefix) <= 512
        if not (text.startswith(SCHEME) and _BUCKET.match(bucket) and is_valid):
            raise UsageError(
                f"invalid address of a bucket {text!r}: use s3://BUCKET/PREFIX with letters, "
                "digits and . _ - in the prefix"
            )
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long requests take and are repeated; all in seconds."""

    connect: float = 5.0
    """Until a connection is established."""
    request: float = 60.0
    """Until a small request is answered."""
    bulk: float = 600.0
    """Until a pack is transferred: 64 MiB at 110 KB/s."""
    repeat: float = 60.0
    """No request is repeated later than this after its first attempt."""
    first_delay: float = 0.1
    longest_delay: float = 5.0


class _Failure(NamedTuple):
    """Reason of an error of obstore."""

    status: int | None
    """HTTP status, if there was a reply."""
    code: str
    """Code of S3, or a short reason."""


class Bucket:
    """Objects of a bucket under a prefix. Safe to use from several threads, not across a fork."""

    def __init__(self, url: BucketUrl, access: S3Access, patience: Patience | None = None) -> None:
        self.url = url
        self._access = access
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._small: Any = None
        self._bulk: Any = None
        self._pid = 0
        self._is_down = False

    def create(self, key: str, data: bytes) -> None:
        """Create an object, and have the server verify its SHA-256.

        Raises:
            FileExistsError: it exists, with other content if the request was repeated.
        """
        has_failed = False

        def put() -> None:
            nonlocal has_failed
            store = self._client(is_bulk=len(data) >= _BULK_BYTES)
            try:
                store.put(key, data, mode="create", use_multipart=False)
            except _refusals() as exc:
                if _failure_of(exc).status == 409:
                    has_failed = True
                    raise _Repeat(_failure_of(exc)) from exc
                if not has_failed or not self._is_equal(key, data):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key) from exc
            except BaseException:
                has_failed = True
                raise

        self._request(f"cannot create {key}", put)

    def _is_equal(self, key: str, data: bytes) -> bool:
        """Return whether an object has this content.

        Raises:
            NoReply: it cannot be read, although the server refused to create it.
        """
        try:
            return self.get(key).data == data
        except FileNotFoundError:
            raise NoReply(errno.EIO, f"{key} exists and cannot be read") from None

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Content:
        """Return *length* bytes at *offset*, fewer only at the end; by default the whole object."""
        if length is not None and length <= 0:
            return Content(b"", self.head(key))
        span: dict[str, Any] = {}
        if length is not None:
            span = {"range": (offset, offset + length)}
        elif offset:
            span = {"range": {"offset": offset}}
        return self._get(key, span, length if length is not None else _BULK_BYTES, offset, length)

    def get_tail(self, key: str, length: int) -> Content:
        """Return the last *length* bytes, or the whole object if it is smaller."""
        return self._get(key, {"range": {"suffix": length}}, length, None, length)

    def _get(
        self,
        key: str,
        options: dict[str, Any],
        expected: int,
        offset: int | None,
        length: int | None,
    ) -> Content:
        def get() -> Content | None:
            store = self._client(is_bulk=expected >= _BULK_BYTES)
            try:
                result = store.get(key, options=options)
                data = result.bytes().to_bytes()
            except _errors() as exc:
                if _failure_of(exc).status == 416:
                    return None  # The range begins at the end or after it.
                raise
            head = _head(result.meta)
            left = head.size if offset is None else max(head.size - offset, 0)
            if len(data) != (left if length is None else min(length, left)):
                raise _Repeat(_Failure(None, "the reply is incomplete"))
            return Content(data, head)

        content = self._request(f"cannot read {key}", lambda: _confirmed(get))
        return Content(b"", self.head(key)) if content is None else content

    def head(self, key: str) -> Head:
        """Return facts about an object."""

        def head() -> Head:
            return _head(self._client().head(key))

        return self._request(f"cannot find {key}", lambda: _confirmed(head))

    def delete(self, key: str) -> None:
        """Remove an object; does nothing if it does not exist."""

        def delete() -> None:
            try:
                self._client().delete(key)
            except FileNotFoundError as exc:
                if _failure_of(exc).code == _NO_BUCKET:
                    raise

        self._request(f"cannot delete {key}", delete)

    def names_after(self, folder: str, name: str, prefix: str = "") -> Iterator[str]:
        """Yield the names in *folder* that begin with *prefix* and are greater than *name*.

        They ascend. S3 lists consistently, so a listing in pages has every object that exists from
        the first page to the last (probe.py tests it).
        """
        for listed, _ in self._listed_after(folder, max(name, _before(prefix))):
            if listed > name and listed.startswith(prefix):
                yield listed
            elif listed > prefix and not listed.startswith(prefix):
                return

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes of all objects in *folder* by name, from the pages of a listing."""
        return dict(self._listed_after(folder, ""))

    def _listed_after(self, folder: str, after: str) -> Iterator[tuple[str, int]]:
        """Yield names in *folder* after a name, ascending, with the sizes of their objects."""
        while True:
            page = self._page(folder, after)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    def _page(self, folder: str, after: str) -> list[tuple[str, int]]:
        """Return the first names in *folder* after a name, at most 1,000, with sizes."""

        def load() -> list[tuple[str, int]]:
            offset = f"{folder}/{after}" if after else None
            for page in self._client().list(folder, offset=offset, chunk_size=_PAGE):
                return [(entry["path"].removeprefix(f"{folder}/"), entry["size"]) for entry in page]
            self._require_s3()
            return []

        return self._request(f"cannot list {folder}", load)

    def _require_s3(self) -> None:
        """Raise _Repeat if the replies are not those of an S3 server.

        obstore takes any document of status 200, e.g. a page of a proxy, for an empty listing. A
        prune that believed it would delete everything. The same page instead of an object is
        recognized by its first byte: the settings of a repository are JSON.
        """
        try:
            data = self._client().get(SETTINGS_KEY).bytes().to_bytes()
        except FileNotFoundError as exc:
            if _failure_of(exc).code == _NO_BUCKET:
                raise
        else:
            if not data.startswith(b"{"):
                raise _Repeat(_Failure(None, "the replies are not those of an S3 server"))

    def close(self) -> None:
        """Drop the connections; a second call does nothing."""
        with self._lock:
            self._small = self._bulk = None

    def _client(self, *, is_bulk: bool = False) -> Any:
        with self._lock:
            if self._pid not in (0, os.getpid()):
                raise RuntimeError("a client of a bucket is used across a fork")
            if self._small is None:
                self._small = self._connect(self._patience.request)
                self._bulk = self._connect(self._patience.bulk)
                self._pid = os.getpid()
            return self._bulk if is_bulk else self._small

    def _connect(self, seconds: float) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError as exc:
            raise UsageError(
                "repositories in buckets need obstore: install it with pip install 'cbtfs[s3]'"
            ) from exc
        access = self._access
        config: dict[str, Any] = {"checksum_algorithm": "SHA256", "conditional_put": "etag"}
        client: dict[str, Any] = {
            "timeout": f"{int(seconds * 1000)}ms",
            "connect_timeout": f"{int(self._patience.connect * 1000)}ms",
        }
        if access.endpoint is not None:
            config["endpoint"] = access.endpoint
            client["allow_http"] = access.endpoint.startswith("http://")
        if access.credentials is not None:
            config["access_key_id"] = access.credentials.access_key
            config["secret_access_key"] = access.credentials.secret_key
            if access.credentials.session_token is not None:
                config["session_token"] = access.credentials.session_token
        if access.ca_file is not None:
            try:
                client["root_certificate"] = access.ca_file.read_bytes()
            except OSError as exc:
                raise UsageError(f"cannot read {access.ca_file}: {exc.strerror}") from exc
        try:
            return S3Store(
                self.url.bucket,
                prefix=self.url.prefix or None,
                region=access.region,
                client_options=client,
                retry_config={"max_retries": 0},
                **config,
            )
        except ValueError as exc:
            raise UsageError(f"cannot use {self.url}: {exc}") from None

    def _request(self, what: str, call: Callable[[], Result]) -> Result:
        """Return the result of *call*, which is repeated while the server does not answer.

        Raises:
            FileNotFoundError, FileExistsError: as *call* raises them.
            AccessDenied: the server refuses the credentials.
            NoReply: the server did not answer in time.
            Throttled: it answered that it is too busy.
            OSError: it refused the request.
        """
        patience = self._patience
        began, delay = time.monotonic(), patience.first_delay
        while True:
            try:
                result = call()
            except _Repeat as exc:
                failure = exc.failure
            except FileNotFoundError as exc:
                failure = _failure_of(exc)
                if failure.code != _NO_BUCKET:
                    self._answered()
                    absent = os.strerror(errno.ENOENT)
                    raise FileNotFoundError(errno.ENOENT, absent, what) from None
            except _errors() as exc:
                failure = _failure_of(exc)
            else:
                self._answered()
                return result
            self._refuse(what, failure)
            elapsed = time.monotonic() - began
            if elapsed + delay > patience.repeat or self._is_down:
                raise self._unreachable(what, failure)
            time.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, patience.longest_delay)

    def _refuse(self, what: str, failure: _Failure) -> None:
        """Raise the error of a reply after which the request is not repeated."""
        if failure.code != _NO_BUCKET and (failure.status is None or failure.status in _BUSY):
            return
        self._answered()
        if failure.code == _NO_BUCKET:
            raise NoBucket(errno.EIO, f"{what}: the bucket {self.url.bucket} does not exist")
        if failure.status in (401, 403) or failure.code in _BAD_KEYS:
            raise AccessDenied(
                f"{what}: {self.url} refuses access ({failure.code}): check the credentials, the "
                "region and the clock"
            )
        raise OSError(errno.EIO, f"{what}: HTTP status {failure.status} {failure.code}")

    def _answered(self) -> None:
        if self._is_down and self._changes(is_down=False):
            log.warning("the server of %s answers again", self.url)

    def _changes(self, *, is_down: bool) -> bool:
        """Record whether the server answers; return whether that is new."""
        with self._lock:
            is_new, self._is_down = self._is_down != is_down, is_down
            return is_new

    def _unreachable(self, what: str, failure: _Failure) -> OSError:
        """Return the error of a request without an answer.

        The first one is logged. Until the server answers again, requests are not repeated, so that
        readers do not wait for each request.
        """
        reason = failure.code
        if self._access.credentials is None:
            reason += "; without credentials in the environment or a profile, those of this "
            reason += "machine's role are requested"
        if self._changes(is_down=True):
            log.warning("the server of %s does not answer: %s", self.url, reason)
        if failure.status is None:
            return NoReply(errno.EIO, f"{what}: the server does not answer: {reason}")
        return Throttled(errno.EIO, f"{what}: HTTP status {failure.status} {reason}")


class _Repeat(Exception):
    """Raised to repeat a request."""

    def __init__(self, failure: _Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


def _confirmed(call: Callable[[], Result]) -> Result:
    """Return the result of *call*, which is repeated once if the object does not exist.

    A proxy or a replica may answer from an outdated state. The absence of an object has
    consequences, and it is rare.
    """
    try:
        return call()
    except FileNotFoundError:
        return call()


def _errors() -> tuple[type[Exception], ...]:
    """Return the class of obstore's errors; none if it is not installed."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()
    return (BaseError,)


def _refusals() -> type[Exception]:
    """Return the class of the error of a create whose object exists."""
    from obstore.exceptions import AlreadyExistsError

    refused: type[Exception] = AlreadyExistsError
    return refused


def _failure_of(error: BaseException) -> _Failure:
    """Return status and code of an error of obstore, and nothing else of its text."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if code is not None:
        reason = code[1]
    elif status is not None:
        reason = "without a code"
    elif _REDIRECT in text:
        return _Failure(301, "to another region: check the region")
    elif _BAD_NAME in text:
        return _Failure(200, "with a name that is not of cbtfs, such as a//b: remove that object")
    elif "kind: Connect" in text:
        reason = "cannot connect"
    elif "kind: Timeout" in text:
        reason = "timeout"
    else:
        reason = "the connection failed"
    return _Failure(None if status is None else int(status[1]), reason)


def _head(meta: Any) -> Head:
    tag = f"{meta['e_tag']} {meta['version']}".encode()
    return Head(meta["size"], hashlib.blake2b(tag, digest_size=24).digest())


def _before(prefix: str) -> str:
    """Return a name, or "", that is less than all names with this prefix."""
    if not prefix:
        return ""
    last = chr(ord(prefix[-1]) - 1)
    return prefix[:-1] + last if last.isalnum() or last == "-" else prefix[:-1]
