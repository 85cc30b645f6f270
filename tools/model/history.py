"""Random histories: many programs on some machines, in an order that a seed determines."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tools.model.actor import Actor, Clock, Machine
from tools.model.forest import Forest
from tools.model.network import Network, random_fate
from tools.model.programs.capture import capture, copy
from tools.model.programs.points import forget, unforget
from tools.model.programs.prune import prune
from tools.model.programs.reader import mount, overlay
from tools.model.record import Checker, Loss, Record
from tools.model.requests import Choose, Create, Delete, Get, Page, Program, Request
from tools.model.rules import Rule, Rules
from tools.model.store import Store

_MACHINES: Final = 3
_ACTORS: Final = 7
_CHUNKS: Final = 12
_LEAVES: Final = 3
_LABELS: Final = 3
"""Points of another repository that are copied."""
_SHARES: Final = {
    "capture": 38, "copy": 9, "forget": 22, "unforget": 9, "prune": 12, "overlay": 5, "mount": 7,
}  # fmt: skip
"""How often each program is started."""
_START, _FAULT, _DEATH, _LATE, _JUMP, _STOP = 0.12, 0.04, 0.004, 0.05, 0.01, 0.02
"""Probabilities in each step."""
_ABORT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a history."""

    prunes: int = 2
    """Largest number of prunes at once."""
    steps: int = 1500


@dataclass(slots=True)
class _Running:
    """A program that has sent a request."""

    kind: str
    actor: Actor
    program: Program[None]
    request: Request
    stopped: int = 0
    """Steps for which it is stopped by SIGSTOP."""


@dataclass(slots=True)
class Played:
    """Result of a history."""

    loss: str | None
    counts: Counter[str] = field(default_factory=Counter)


class History:
    """One world and its programs."""

    def __init__(
        self, seed: int, rules: Rules, shape: Shape, trace: Callable[[str], None] | None = None
    ) -> None:
        self._rnd = rnd = random.Random(seed)
        self._rules = rules
        self._shape = shape
        self._trace = trace
        self._clock = Clock()
        self._machines = [
            Machine(self._clock, rnd.uniform(0.96, 1.04), rnd.uniform(-100, 100))
            for _ in range(_MACHINES)
        ]
        self._forest = Forest(_CHUNKS)
        store = Store(is_conditional=Rule.CONDITIONAL_CREATE in rules)
        self._network = Network(store, rnd.choice([2, 5, 1000]))
        self._record = Record()
        self._checker = Checker(store, self._forest, self._record)
        self._labels = [self._random_root(None) for _ in range(_LABELS)]
        self._running: list[_Running] = []
        self._started = 0
        self._counts: Counter[str] = Counter()

    def play(self) -> Played:
        """Play the history to its end, or to the first loss."""
        loss = None
        try:
            for _ in range(self._shape.steps):
                self._step()
            self._end()
        except Loss as exc:
            loss = str(exc)
        self._counts["reads"] = self._record.reads
        self._counts["failed reads"] = self._record.failed_reads
        self._counts["acknowledged points"] = len(self._record.roots)
        return Played(loss, self._counts)

    def _end(self) -> None:
        """Deliver late requests, end all programs, and prune twice without faults."""
        while self._network.late:
            self._deliver(is_last=True)
        while self._running:
            self._kill(self._running[0])  # No name keeps it: its code ends, with its turn.
        for _ in range(2):
            self._start("prune")
            while self._running:
                self._advance(self._running[0], faults=0.0)

    def _step(self) -> None:
        rnd = self._rnd
        self._clock.now += rnd.uniform(1, 40) if rnd.random() < _JUMP else rnd.random() * 0.05
        if rnd.random() < _JUMP:
            self._disturb(rnd.choice(self._machines))
        if len(self._running) < _ACTORS and rnd.random() < _START:
            kind = rnd.choices([*_SHARES], [*_SHARES.values()])[0]
            prunes = sum(running.kind == "prune" for running in self._running)
            if kind != "prune" or prunes < self._shape.prunes:
                self._start(kind)
        if self._network.late and rnd.random() < _LATE:
            self._deliver()
        ready = []
        for running in self._running:
            if running.stopped:
                running.stopped -= 1
            else:
                ready.append(running)
        if not ready:
            return
        running = rnd.choice(ready)
        if rnd.random() < _DEATH:
            self._kill(running)
        elif rnd.random() < _STOP:
            running.stopped = rnd.randrange(1, 200)
        else:
            self._advance(running, faults=_FAULT)

    def _disturb(self, machine: Machine) -> None:
        if self._rnd.random() < 0.5:
            machine.offset = self._rnd.uniform(-1000, 1000)
        else:
            machine.catalog.clear()

    def _start(self, kind: str) -> None:
        self._started += 1
        self._counts[kind] += 1
        actor = Actor(
            self._started,
            self._rnd.choice(self._machines),
            self._rules,
            self._forest,
            self._record,
            self._random_root,
            self._rnd.randrange(2, 7),
            self._rnd.random() < _ABORT,
        )
        program = self._program(kind, actor)
        try:
            self._running.append(_Running(kind, actor, program, next(program)))
        except StopIteration:
            return

    def _program(self, kind: str, actor: Actor) -> Program[None]:
        if kind == "copy":
            label = self._rnd.randrange(_LABELS)
            return copy(actor, label, self._labels[label])
        programs: dict[str, Callable[[Actor], Program[None]]] = {
            "capture": capture,
            "forget": forget,
            "unforget": unforget,
            "prune": prune,
            "overlay": overlay,
            "mount": mount,
        }
        return programs[kind](actor)

    def _random_root(self, base: int | None) -> int:
        """Return a disk that shares leaves with *base*."""
        rnd, forest = self._rnd, self._forest
        old = forest.children(base) if base is not None else ()
        leaves = [
            rnd.choice(old)
            if old and rnd.random() < 0.6
            else forest.node((rnd.choice(forest.chunks), rnd.choice(forest.chunks)))
            for _ in range(_LEAVES)
        ]
        return forest.node(leaves)

    def _advance(self, running: _Running, *, faults: float) -> None:
        """Answer the request of a program, and take its next one."""
        reply = self._answer(running, faults)
        try:
            running.request = running.program.send(reply)
        except StopIteration:
            self._running.remove(running)
        self._checker.check()

    def _answer(self, running: _Running, faults: float) -> Any:
        request = running.request
        if isinstance(request, Choose):
            return self._rnd.randrange(request.count)
        if isinstance(request, Get | Page):
            return self._network.read(request)
        if isinstance(request, Create | Delete):
            fate = random_fate(self._rnd, faults)
            self._counts[fate.value] += 1
            reply = self._network.change(request, fate)
            self._note(f"{running.kind} {running.actor.number}: {request} {fate.value}: {reply}")
            return reply
        return None

    def _kill(self, running: _Running) -> None:
        """End a program; its request may still be on its way, and its holds have no reader."""
        self._counts["deaths"] += 1
        self._note(f"{running.kind} {running.actor.number} dies")
        self._running.remove(running)
        if isinstance(running.request, Create | Delete) and self._rnd.random() < 0.5:
            self._network.late.append(running.request)
        for hold in running.actor.holds:
            self._record.readers.pop(hold, None)

    def _deliver(self, *, is_last: bool = False) -> None:
        index = self._rnd.randrange(len(self._network.late))
        stays = not is_last and self._rnd.random() < 0.3
        request = self._network.deliver(index, stays=stays)
        self._counts["late"] += 1
        self._note(f"late: {request}")
        self._checker.check()

    def _note(self, text: str) -> None:
        if self._trace is not None:
            self._trace(text)
