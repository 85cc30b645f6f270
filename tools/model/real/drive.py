"""Histories of the model, played by the code of the store."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from cbtfs.errors import CbtfsError
from cbtfs.store import identity
from cbtfs.store.backend.base import NoReply
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.turn import Turn
from tools.model.actor import Actor, Machine
from tools.model.history import History, Played, Shape
from tools.model.real.backend import Bytes, World
from tools.model.real.objects import Contents
from tools.model.real.port import Baton, Port
from tools.model.real.programs import RealMachine, RealProgram
from tools.model.requests import Create, Program, Request
from tools.model.rules import Rules
from tools.model.store import Entry, Kind, Prefix

_HOUR: Final = 3600.0
_MAP_BYTES: Final = 1 << 26
_LABELS: Final = 3


class _Now:
    """The executor of a writer that closes packs at once."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], *arguments: object) -> "_Done":
        return _Done(call, arguments)

    def shutdown(self, *, wait: bool) -> None:
        """Do nothing: everything is done."""


class _Done:
    def __init__(self, call: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self._error: BaseException | None = None
        try:
            self._value = call(*arguments)
        except Exception as exc:
            self._error = exc

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class RealHistory(History):
    """One world whose programs are those of the store."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        shape: Shape,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(seed, Rules(), shape, trace)
        self._folder = folder
        self._ids = random.Random(seed)
        self._current: tuple[Port, Machine] | None = None
        self._world = World(self._network.store, Contents(self._forest), Bytes())
        self._real: dict[int, RealMachine] = {}
        self._batons = {id(machine): Baton() for machine in self._machines}

    def close(self) -> None:
        """End all programs, and close the catalogs."""
        for running in self._running:
            running.program.close()
        for machine in self._real.values():
            machine.catalog.close()

    def token_hex(self, count: int) -> str:
        """Return a random id that the seed determines."""
        return self._ids.randbytes(count).hex()

    def boot_clock(self) -> float:
        """Return the clock of the machine whose program runs."""
        assert self._current is not None
        return self._current[1].clock() * _HOUR

    def _machine_of(self, machine: Machine) -> RealMachine:
        known = self._real.get(id(machine))
        if known is None:
            folder = self._folder / f"machine {self._machines.index(machine)}"
            folder.mkdir(exist_ok=True)
            catalog = Catalog(
                folder / "catalog",
                is_writable=True,
                map_bytes=_MAP_BYTES,
                turns=_Turns(self, self._batons[id(machine)]),
            )
            known = self._real[id(machine)] = RealMachine(folder, catalog)
        return known

    def _disturb(self, machine: Machine) -> None:
        """Let a clock jump, or remove a catalog that nobody uses."""
        if self._rnd.random() < 0.5:
            machine.offset = self._rnd.uniform(-1000, 1000)
            return
        is_used = any(running.actor.machine is machine for running in self._running)
        known = self._real.get(id(machine))
        if known is not None and not is_used:
            known.catalog.close()
            shutil.rmtree(known.folder)
            del self._real[id(machine)]
            self._counts["catalogs removed"] += 1

    def _program(self, kind: str, actor: Actor) -> Program[None]:
        label, root = self._rnd.randrange(_LABELS), 0
        if kind == "copy":
            root = self._labels[label]
        port = Port(lambda: self._resumed(port, actor))
        self._current = port, actor.machine
        program = RealProgram(self._world, self._machine_of(actor.machine), actor, port)
        return self._noted(kind, actor, program, port.run(program.body(kind, label + 1, root)))

    def _noted(
        self, kind: str, actor: Actor, program: RealProgram, inner: Program[None]
    ) -> Program[None]:
        """Pass requests on; note wishes of users, and count programs that end with an error."""
        reply: Any = None
        try:
            while True:
                request = inner.send(reply)
                self._note_wish(kind, actor, program, request)
                reply = yield request
        except StopIteration:
            return
        except (CbtfsError, NoReply) as exc:
            self._counts[f"{kind} failed: {type(exc).__name__}"] += 1
            self._note(f"{kind} {actor.number} fails: {exc}")
        finally:
            inner.close()

    def _note_wish(self, kind: str, actor: Actor, program: RealProgram, request: Request) -> None:
        if isinstance(request, Create) and request.key[0] is Prefix.FORGOTTEN:
            name, value = request.key[1], request.value
            assert isinstance(name, tuple)
            assert isinstance(value, Entry)
            if kind == "forget" and value.kind is Kind.FORGOTTEN:
                actor.record.forget_sent(*name)
            if kind == "unforget" and value.kind is Kind.RESTORED:
                program.note_restored(name[1])

    def _resumed(self, port: Port, actor: Actor) -> None:
        self._current = port, actor.machine

    def port_of_current(self) -> Port:
        assert self._current is not None
        return self._current[0]


class _Turns:
    """Turns at the catalog of a machine; a program that waits lets others work."""

    def __init__(self, history: RealHistory, baton: Baton) -> None:
        self._history = history
        self._baton = baton

    @contextmanager
    def held(self) -> Iterator[Turn]:
        self._baton.take(self._history.port_of_current())
        try:
            yield Turn(is_unsure=False)
        finally:
            self._baton.give()


@contextmanager
def playing(history: RealHistory) -> Iterator[None]:
    """Let the store take ids, time and threads from *history*."""
    with ExitStack() as stack:
        stack.callback(history.close)
        stack.enter_context(patch.object(identity, "secrets", history))
        for module in ("looks", "presence"):
            name = f"cbtfs.store.shared.{module}.boot_clock"
            stack.enter_context(patch(name, history.boot_clock))
        stack.enter_context(patch("cbtfs.store.shared.requests._PAUSE_SECONDS", 0.0))
        stack.enter_context(patch("cbtfs.store.shared.presence.RENEWAL_SECONDS", 1e9))
        stack.enter_context(patch("cbtfs.store.writer.ThreadPoolExecutor", _Now))
        yield


def play(
    seed: int, folder: Path, shape: Shape, trace: Callable[[str], None] | None = None
) -> Played:
    """Play one history; return its result."""
    history = RealHistory(seed, folder, shape, trace)
    with playing(history):
        return history.play()
