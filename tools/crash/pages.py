"""Campaign: fail or shorten a system call of LMDB; the run ends and no data is lost."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.store.catalog.environment import LOCK
from cbtfs.store.catalog.gate import DATA
from cbtfs.store.catalog_opening import CATALOG
from tools.crash.campaign import Campaign, expect_success
from tools.crash.child import BUG, ChildExit
from tools.crash.lifecycle import OPERATIONS, Lifecycle, Operation
from tools.crash.result import CampaignResult
from tools.crash.tracer import Tracer
from tools.crash.verify import Violation

_INJECTED: Final = "(INJECTED)"
_MOST: Final = 8
"""Maximum number of points."""
_WRITES: Final = ("pwrite64", "writev", "fdatasync")
_FLUSH: Final = "fdatasync"
_FAILURES: Final = {
    "pwrite64": ("error=EIO", "error=ENOSPC", "retval=100"),
    "writev": ("error=EIO", "error=ENOSPC", "retval=100"),
    "fdatasync": ("error=EIO", "error=ENOSPC"),
    "openat": ("error=EIO", "error=EMFILE"),
    "ftruncate": ("error=EIO", "error=ENOSPC"),
    "lseek": ("error=EIO",),
    "mmap": ("error=ENOMEM",),
}
"""Failures of each call for strace. `retval=100` writes nothing and returns 100."""
_RARE: Final = ("lseek", "mmap")
"""Calls that are tried only if all failures are tried."""
_ALL_FAILURES: Final = 3
_SAMPLE_STEP: Final = 8


class Failing(NamedTuple):
    """The N-th call of a name on the files of LMDB, counted from 1."""

    call: str
    failure: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} number {self.number}, {self.failure}"


def pages(folder: Path, seed: int, count: int) -> CampaignResult:
    """Fail each call of LMDB in turn, in every operation.

    *count* is the number of failures to try per call; they are chosen at random if there are more.
    0 is a sample: one failure for every eighth call.
    """
    turns, step = (count, 1) if count else (1, _SAMPLE_STEP)
    lifecycle = Lifecycle(Campaign(folder, seed))
    for _ in range(4):
        lifecycle.campaign.run_undisturbed()
    failed = Counter[str]()
    for operation in OPERATIONS:
        for call, failures in _FAILURES.items():
            if call in _RARE and turns < _ALL_FAILURES:
                continue
            for turn in range(min(turns, len(failures))):
                number = lifecycle.campaign.rnd.randrange(step) if step > 1 else 0
                numbers = itertools.count(number, step)
                choices = failures[turn : turn + 1] if turns >= len(failures) else failures
                failed[call] += _fail_numbers(lifecycle, operation, call, choices, numbers)
    lifecycle.prove_all()
    note = ", ".join(f"{call} {number}" for call, number in failed.items())
    return CampaignResult(
        "pages",
        failed.total(),
        "calls of LMDB",
        lifecycle.campaign.points,
        lifecycle.unacknowledged,
        0,
        note,
    )


def _fail_numbers(
    lifecycle: Lifecycle,
    operation: Operation,
    call: str,
    failures: Sequence[str],
    numbers: Iterable[int],
) -> int:
    """Fail one call per run, those of *numbers*; return how many calls failed.

    Each failure is a random one of *failures*.
    """
    failed = 0
    for number in numbers:
        _keep_small(lifecycle, operation)
        failure = failures[0]
        if len(failures) > 1:
            failure = lifecycle.campaign.rnd.choice(failures)
        if not fail(lifecycle, operation, Failing(call, failure, number + 1)):
            break
        failed += 1
    return failed


def _keep_small(lifecycle: Lifecycle, operation: Operation) -> None:
    """Keep points and packs few, so that an operation makes few calls; leave work for a prune."""
    if lifecycle.campaign.points > _MOST:
        expect_success(lifecycle.run("forget"))
        expect_success(lifecycle.run("prune"))
    if operation == "prune":
        expect_success(lifecycle.run("forget"))


def fail(lifecycle: Lifecycle, operation: Operation, failing: Failing) -> bool:
    """Make one call of LMDB fail while *operation* runs; return whether the call was made.

    Raises Violation if the result of the run is not correct.
    """
    repository = lifecycle.campaign.repository
    files = [
        str(repository / catalog / name)
        for catalog in (CATALOG, f"{CATALOG}.new")
        for name in (DATA, LOCK)
    ]
    tracer = Tracer(
        repository.with_name("injected"),
        *(option for file in files for option in ("-P", file)),
        *("-e", f"trace={','.join({*_WRITES, failing.call})}"),
        *("-e", f"inject={failing.call}:{failing.failure}:when={failing.number}"),
    )
    result = lifecycle.run(operation, prepare=tracer.install)
    lines = tracer.lines()
    injected = next((n for n, line in enumerate(lines) if _INJECTED in line), None)
    try:
        if injected is not None:
            _expect_reported(failing, result, lines[injected + 1 :])
        lifecycle.prove()
    except Violation as exc:
        raise Violation(f"{operation}, {failing}, {result}: {exc}") from exc
    return injected is not None


def _expect_reported(failing: Failing, result: ChildExit, after: list[str]) -> None:
    """Verify that the run failed with a reason and did not flush again."""
    if result.code == BUG or result.code < 0:
        raise Violation("the run ended without a reason")
    if failing.call in _WRITES and result.code == 0:
        raise Violation("the run succeeded despite a failed write")
    if failing.call in _WRITES and any(f" {_FLUSH}(" in line for line in after):
        raise Violation("the run flushed after a failed write")
