"""The error of a failed write or flush to a repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbtfs.errors import StoreFailed, StoreUnreachable
from cbtfs.shortage import SHORTAGES, explain
from cbtfs.store.backend.base import NoReply
from cbtfs.store.owner import refuse_denied


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn a failed write or flush into StoreFailed, which ends the run without a retry."""
    try:
        yield
    except OSError as exc:
        if exc.filename is not None:
            refuse_denied(exc, Path(what))
        if exc.errno in SHORTAGES:
            raise StoreFailed(f"cannot write {what}: {explain(exc.errno)}") from exc
        if isinstance(exc, NoReply):
            raise StoreUnreachable(f"cannot write {what}: {exc.strerror}") from exc
        raise StoreFailed(
            f"cannot write {what}: {exc.strerror}; nothing committed is lost, "
            "repair the storage and run the command again"
        ) from exc
