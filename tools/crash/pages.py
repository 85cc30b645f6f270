"""Campaign: a call of LMDB's own fails, or writes too little; the run ends, and nothing is lost."""

from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.store.catalog.environment import LOCK
from cbtfs.store.catalog.gate import DATA
from cbtfs.store.repository import CATALOG
from tools.crash.campaign import Campaign, expect_success
from tools.crash.child import ChildExit
from tools.crash.lifecycle import OPERATIONS, Lifecycle, Operation
from tools.crash.result import CampaignResult
from tools.crash.tracer import Tracer
from tools.crash.verify import Violation

_BUG: Final = 70
_INJECTED: Final = "(INJECTED)"
_MOST: Final = 8
"""Points."""
_WRITES: Final = ("pwrite64", "writev", "fdatasync")
_FLUSH: Final = "fdatasync"
_WAYS: Final = {
    "pwrite64": ("error=EIO", "error=ENOSPC", "retval=100"),
    "writev": ("error=EIO", "error=ENOSPC", "retval=100"),
    "fdatasync": ("error=EIO", "error=ENOSPC"),
    "openat": ("error=EIO", "error=EMFILE"),
    "ftruncate": ("error=EIO", "error=ENOSPC"),
    "lseek": ("error=EIO",),
    "mmap": ("error=ENOMEM",),
}
"""How each call fails. retval: not a byte is written, and 100 are said to be."""
_RARE: Final = ("lseek", "mmap")
"""Only where all ways are tried."""
_ALL_WAYS: Final = 3


class Failing(NamedTuple):
    """The N-th of some call, counted from 1, on the files of LMDB."""

    call: str
    way: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} number {self.number}, {self.way}"


def pages(folder: Path, seed: int, count: int) -> CampaignResult:
    """Each call of LMDB fails in turn, in every operation.

    *count* is how many ways to fail are tried of each; where there are more they are drawn.
    """
    lifecycle = Lifecycle(Campaign(folder, seed))
    for _ in range(4):
        lifecycle.campaign.run_undisturbed()
    failed = Counter[str]()
    for operation in OPERATIONS:
        for call, ways in _WAYS.items():
            if call in _RARE and count < _ALL_WAYS:
                continue
            for turn in range(min(count, len(ways))):
                failed[call] += _every_number(lifecycle, operation, call, turn, count)
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


def _every_number(
    lifecycle: Lifecycle, operation: Operation, call: str, turn: int, turns: int
) -> int:
    """How many calls were made to fail, one in each run."""
    ways, number = _WAYS[call], 0
    while True:
        _keep_small(lifecycle, operation)
        way = ways[turn] if turns >= len(ways) else lifecycle.campaign.rnd.choice(ways)
        if not fail(lifecycle, operation, Failing(call, way, number + 1)):
            return number
        number += 1


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
        *("-e", f"inject={failing.call}:{failing.way}:when={failing.number}"),
    )
    outcome = lifecycle.run(operation, prepare=tracer.install)
    lines = tracer.lines()
    struck = next((n for n, line in enumerate(lines) if _INJECTED in line), None)
    try:
        if struck is not None:
            _look(failing, outcome, lines[struck + 1 :])
        lifecycle.prove()
    except Violation as exc:
        raise Violation(f"{operation}, {failing}, {outcome}: {exc}") from exc
    return struck is not None


def _look(failing: Failing, outcome: ChildExit, after: list[str]) -> None:
    """A reason was given, no success, and no flush was tried again."""
    if outcome.code == _BUG or outcome.code < 0:
        raise Violation("it ended without a reason")
    if failing.call in _WRITES and outcome.code == 0:
        raise Violation("it passed for a success")
    if failing.call in _WRITES and any(f" {_FLUSH}(" in line for line in after):
        raise Violation("it went on writing")
