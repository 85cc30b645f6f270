"""Work on the items of a sequence by several threads, with the results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_LOADERS: Final = min((os.cpu_count() or 1) + 2, 8)
"""Number of threads: decoding and hashing release the GIL, and direct reads and writes wait.

Twice as many items are in flight, which bounds memory.
"""
Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterator[Item], threads: int = _LOADERS
) -> Iterator[Result]:
    """Yield *work* of each item in order, computed ahead by *threads*.

    The thread of the caller takes the items.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "loader") as loaders:
        try:
            for item in items:
                pending.append(loaders.submit(work, item))
                if len(pending) >= 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
