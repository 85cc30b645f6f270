"""Exhaustive search: every order of the requests of a small world, with a few faults.

The state of a program is a function of the replies that it has received, so two orders that lead
to the same store and the same replies are one state. Programs are generators and cannot be copied:
the search plays a world from its beginning to return to an earlier state.
"""

import random
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tools.model.actor import Actor, Clock, Machine
from tools.model.forest import Forest
from tools.model.network import FAULTS, Fate, Network
from tools.model.record import Checker, Loss, Record
from tools.model.requests import (
    Acquire,
    Choose,
    Create,
    Delete,
    Get,
    Mutation,
    Page,
    Program,
    Release,
    Replace,
    Request,
)
from tools.model.rules import Rule, Rules
from tools.model.store import Key, Prefix, Store, Value

_PAUSE = 0.03
"""Probability that hours may pass in a step of a sample."""

_STICKY = (0.5, 0.7, 0.9)
"""Probability that the same program continues, for each play of a sample."""

Start: TypeAlias = Callable[[Actor], Program[None]]


@dataclass(frozen=True, slots=True)
class Setting:
    """The beginning of a small world, and what may go wrong in it."""

    forest: Forest
    objects: Sequence[tuple[Key, Value]]
    programs: Sequence[Start]
    """They run at once, each on its own machine."""
    content: int = 0
    """Root that a capture stores."""
    acknowledged: Sequence[tuple[int, int]] = ()
    """Commits and roots that users were told of."""
    forgotten: Sequence[tuple[int, int]] = ()
    """Commits that users have forgotten, and the number of the entry."""
    late: Sequence[Mutation] = ()
    """Requests of ended programs that have not arrived yet."""
    is_local: bool = False
    """Whether a request has its effect before its program can die, as a system call does."""
    faults: int = 0
    """Number of requests with a fault."""
    fates: Sequence[Fate] = FAULTS
    fault_prefix: Prefix | None = None
    """Prefix of the requests that may have a fault; None for all."""
    deaths: int = 0
    pauses: int = 0
    """Number of times that *pause_hours* pass."""
    pause_hours: float = 0.0
    offset_hours: float = 0.0
    """How far the clock of each machine is ahead of that of the machine before it."""


@dataclass(slots=True)
class _Process:
    actor: Actor
    program: Program[None]
    request: Request | None = None


Step: TypeAlias = tuple[str, int, int]
"""Kind of a step, the process or request that it concerns, and its variant."""


@dataclass(slots=True)
class Searched:
    """Result of a search."""

    states: int = 0
    loss: str | None = None
    steps: list[str] = field(default_factory=list)
    """The steps that lead to the loss."""
    is_complete: bool = True


class _World:
    """One run of a setting."""

    def __init__(self, setting: Setting, rules: Rules, changed: set[Prefix]) -> None:
        """*changed* collects the prefixes of which objects were changed."""
        self._setting = setting
        self.changed = changed
        self._constant = frozenset(Prefix) - changed
        self.clock = Clock()
        self._store = Store(is_conditional=Rule.CONDITIONAL_CREATE in rules)
        for key, value in setting.objects:
            self._store.create(key, value)
        self._network = Network(self._store, late=[*setting.late])
        self._record = Record(roots=dict(setting.acknowledged), forgets=dict(setting.forgotten))
        self._checker = Checker(self._store, setting.forest, self._record)
        self._faults, self._deaths, self._pauses = setting.faults, setting.deaths, setting.pauses
        self._locks: dict[str, int] = {}
        self._processes: list[_Process] = []
        for number, start in enumerate(setting.programs, 1):
            actor = Actor(
                number,
                Machine(self.clock, offset=number * setting.offset_hours),
                rules,
                setting.forest,
                self._record,
                lambda _: setting.content,
            )
            process = _Process(actor, start(actor))
            self._processes.append(process)
            self._resume(process, None)

    def steps(self) -> list[Step]:
        """Return the steps that are possible."""
        steps: list[Step] = []
        for index, process in enumerate(self._processes):
            request = process.request
            if request is None:
                continue
            if isinstance(request, Choose):
                # A decision concerns only this program, so nothing comes before it.
                return [("choose", index, choice) for choice in range(request.count)]
            if isinstance(request, Acquire) and request.lock in self._locks:
                continue
            if isinstance(request, Page) and request.prefix in self._constant:
                return [("answer", index, 0)]  # The reply is always the same.
            steps.append(("answer", index, 0))
            if isinstance(request, Create | Delete) and self._may_fail(request):
                steps += [("fault", index, i) for i in range(len(self._setting.fates))]
            if self._deaths:
                steps.append(("die", index, 0))
                if isinstance(request, Create | Delete) and not self._setting.is_local:
                    steps.append(("die", index, 1))
        steps += [("late", index, 0) for index in range(len(self._network.late))]
        if self._pauses:
            steps.append(("pause", 0, 0))
        return steps

    def _may_fail(self, request: Mutation) -> bool:
        prefix = self._setting.fault_prefix
        return self._faults > 0 and prefix in (None, request.key[0])

    def take(self, step: Step) -> None:
        """Take a step and check the store."""
        kind, index, variant = step
        if kind == "late":
            self.changed.add(self._network.deliver(index).key[0])
        elif kind == "pause":
            self._pauses -= 1
            self.clock.now += self._setting.pause_hours
        elif kind == "die":
            self._deaths -= 1
            self._kill(self._processes[index], is_sent=variant == 1)
        else:
            process = self._processes[index]
            self._resume(process, self._answer(process, kind, variant))
        self._checker.check()

    def describe(self, step: Step) -> str:
        """Return what a step will do."""
        kind, index, variant = step
        if kind == "late":
            return f"late: {self._network.late[index]}"
        if kind == "pause":
            return f"{self._setting.pause_hours} hours pass"
        if kind == "fault":
            kind = self._setting.fates[variant].value
        elif kind == "choose":
            kind = f"{variant}"
        return f"program {index}: {kind}: {self._processes[index].request}"

    def _answer(self, process: _Process, kind: str, variant: int) -> Any:
        request = process.request
        if isinstance(request, Choose):
            return variant
        if isinstance(request, Get | Page):
            return self._network.read(request)
        if isinstance(request, Acquire):
            self._locks[request.lock] = process.actor.number
        elif isinstance(request, Release):
            del self._locks[request.lock]
        elif isinstance(request, Replace):
            self.changed.add(request.key[0])
            self._store.delete(request.key)
            self._store.create(request.key, request.value)
        elif isinstance(request, Create | Delete):
            fate = Fate.ANSWERED
            if kind == "fault":
                self._faults -= 1
                fate = self._setting.fates[variant]
            self.changed.add(request.key[0])
            return self._network.change(request, fate)
        return None

    def _resume(self, process: _Process, reply: Any) -> None:
        process.actor.learn(reply)
        try:
            process.request = process.program.send(reply)
        except StopIteration:
            process.request = None

    def _kill(self, process: _Process, *, is_sent: bool) -> None:
        if is_sent and isinstance(process.request, Create | Delete):
            self._network.late.append(process.request)
        process.request = None
        process.program.close()
        for lock in [lk for lk, number in self._locks.items() if number == process.actor.number]:
            del self._locks[lock]
        for hold in process.actor.holds:
            self._record.readers.pop(hold, None)

    def fingerprint(self) -> Hashable:
        """Return a value that is equal for equal states."""
        return (
            self._store.fingerprint,
            tuple(
                None if process.request is None else process.actor.learned
                for process in self._processes
            ),
            frozenset((self._network.late.count(r), r) for r in self._network.late),
            self._record.fingerprint(),
            frozenset(self._locks.items()),
            (self._faults, self._deaths, self._pauses, self.clock.now),
        )


def search(setting: Setting, rules: Rules, limit: int = 1_000_000) -> Searched:
    """Visit all states of a world, at most *limit*, or stop at the first loss.

    A listing of objects that no program changes commutes with everything. The search learns which
    ones these are, and begins again whenever it meets a change of another one.
    """
    changed: set[Prefix] = set()
    while True:
        known = frozenset(changed)
        result = _search(setting, rules, changed, limit)
        if result.loss is not None or changed == known:
            return result


def _search(setting: Setting, rules: Rules, changed: set[Prefix], limit: int) -> Searched:
    known = frozenset(changed)
    result = Searched()
    visited: set[int] = set()
    open_paths: list[list[Step]] = [[]]
    while open_paths:
        path = open_paths.pop()
        world = _World(setting, rules, set(known))
        try:
            for step in path:
                world.take(step)
            while True:
                if not world.changed <= known:
                    changed |= world.changed
                    return result
                state = hash(world.fingerprint())
                if state in visited:
                    break
                visited.add(state)
                result.states += 1
                if result.states > limit:
                    result.is_complete = False
                    return result
                steps = world.steps()
                if not steps:
                    break
                open_paths += [[*path, step] for step in steps[1:]]
                path = [*path, steps[0]]
                world.take(steps[0])
        except Loss as exc:
            result.loss = str(exc)
            result.steps = _describe(setting, rules, path, known)
            return result
    return result


def _describe(
    setting: Setting, rules: Rules, path: Sequence[Step], changed: Set[Prefix]
) -> list[str]:
    world = _World(setting, rules, set(changed))
    steps = []
    try:
        for step in path:
            steps.append(world.describe(step))
            world.take(step)
    except Loss:
        pass
    return steps


def sample(setting: Setting, rules: Rules, walks: int, seed: int = 0) -> Searched:
    """Play a world in the random orders of *walks* seeds, or until the first loss."""
    result = Searched(is_complete=False)
    everything = frozenset(Prefix)
    for number in range(seed, seed + walks):
        rnd = random.Random(number)
        world = _World(setting, rules, set(everything))
        path: list[Step] = []
        sticky = rnd.choice(_STICKY)
        try:
            while steps := world.steps():
                path.append(_next(rnd, steps, path, sticky))
                result.states += 1
                world.take(path[-1])
        except Loss as exc:
            result.loss = f"seed {number}: {exc}"
            result.steps = _describe(setting, rules, path, everything)
            return result
    return result


def _next(rnd: random.Random, steps: list[Step], path: list[Step], sticky: float) -> Step:
    """Choose a step: rarely hours pass; a program runs for some time before another one does."""
    programs = [step for step in steps if step[0] != "pause"]
    if len(programs) < len(steps) and rnd.random() < _PAUSE:
        return steps[-1]
    same = [step for step in programs if path and step[1] == path[-1][1]]
    return rnd.choice(same if same and rnd.random() < sticky else programs or steps)
