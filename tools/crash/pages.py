"""Campaign: a call of LMDB's own fails, or writes too little; the run ends, and nothing is lost."""

from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.store.catalog.environment import LOCK
from cbtfs.store.catalog.gate import DATA
from cbtfs.store.repository import CATALOG
from tools.crash.campaign import Campaign, expect_well
from tools.crash.child import Outcome
from tools.crash.lives import VERBS, Lives, Verb
from tools.crash.result import Result
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


def pages(folder: Path, seed: int, count: int) -> Result:
    """Each call of LMDB fails in turn, in every verb.

    *count* is how many ways to fail are tried of each; where there are more they are drawn.
    """
    lives = Lives(Campaign(folder, seed))
    for _ in range(4):
        lives.campaign.run_well()
    failed = Counter[str]()
    for verb in VERBS:
        for call, ways in _WAYS.items():
            if call in _RARE and count < _ALL_WAYS:
                continue
            for turn in range(min(count, len(ways))):
                failed[call] += _every_number(lives, verb, call, turn, count)
    lives.prove_all()
    note = ", ".join(f"{call} {number}" for call, number in failed.items())
    return Result(
        "pages", failed.total(), "calls of LMDB", lives.campaign.points, lives.late, 0, note
    )


def _every_number(lives: Lives, verb: Verb, call: str, turn: int, turns: int) -> int:
    """How many calls were made to fail, one in each run."""
    ways, number = _WAYS[call], 0
    while True:
        _keep_small(lives, verb)
        way = ways[turn] if turns >= len(ways) else lives.campaign.rnd.choice(ways)
        if not fail(lives, verb, Failing(call, way, number + 1)):
            return number
        number += 1


def _keep_small(lives: Lives, verb: Verb) -> None:
    """Few points and packs, so that a verb makes few calls; something to give back for a prune."""
    if lives.campaign.points > _MOST:
        expect_well(lives.run("forget"))
        expect_well(lives.run("prune"))
    if verb == "prune":
        expect_well(lives.run("forget"))


def fail(lives: Lives, verb: Verb, failing: Failing) -> bool:
    """Let one call of LMDB fail while *verb* runs, and look what became of it; whether it came."""
    repository = lives.campaign.repository
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
    outcome = lives.run(verb, prepare=tracer.install)
    lines = tracer.lines()
    struck = next((n for n, line in enumerate(lines) if _INJECTED in line), None)
    try:
        if struck is not None:
            _look(failing, outcome, lines[struck + 1 :])
        lives.prove()
    except Violation as exc:
        raise Violation(f"{verb}, {failing}, {outcome}: {exc}") from exc
    return struck is not None


def _look(failing: Failing, outcome: Outcome, after: list[str]) -> None:
    """A reason was given, no success, and no flush was tried again."""
    if outcome.code == _BUG or outcome.code < 0:
        raise Violation("it ended without a reason")
    if failing.call in _WRITES and outcome.code == 0:
        raise Violation("it passed for a success")
    if failing.call in _WRITES and any(f" {_FLUSH}(" in line for line in after):
        raise Violation("it went on writing")
