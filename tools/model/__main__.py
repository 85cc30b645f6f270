"""Check the model: `python -m tools.model`."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.model.history import History, Shape
from tools.model.real.drive import play
from tools.model.rules import ABOUT, Rule, Rules
from tools.model.search import search
from tools.model.shortcuts import SHORTCUTS
from tools.model.worlds import WORLDS


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.model", description=__doc__)
    parser.add_argument("--histories", type=int, default=100, help="number of random histories")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first history")
    parser.add_argument("--prunes", type=int, default=2, help="largest number of prunes at once")
    parser.add_argument("--steps", type=int, default=Shape().steps, help="steps of a history")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        type=Rule,
        choices=list(Rule),
        metavar="RULE",
        help="omit this rule; repeatable",
    )
    parser.add_argument(
        "--real", action="store_true", help="play the histories by the code of the store"
    )
    parser.add_argument("--trace", action="store_true", help="print the changes of the histories")
    parser.add_argument(
        "--world", action="append", choices=WORLDS, help="search this small world; repeatable"
    )
    parser.add_argument("--states", type=int, default=1_000_000, help="states of a search")
    parser.add_argument("--shortcuts", action="store_true", help="show the need for each rule")
    parser.add_argument("--rules", action="store_true", help="list the rules")
    options = parser.parse_args(arguments)
    if options.rules:
        for rule, about in ABOUT.items():
            print(f"{rule:26} {about}")
        return 0
    if options.shortcuts:
        return _try_shortcuts()
    if options.real:
        logging.disable(logging.WARNING)  # lost replies are expected here
    if options.world:
        return _search_worlds(options)
    return _play_histories(options)


def _play_histories(options: argparse.Namespace) -> int:
    rules, shape = Rules(options.without), Shape(options.prunes, options.steps)
    counts: Counter[str] = Counter()
    losses = []
    for seed in range(options.seed, options.seed + options.histories):
        trace = print if options.trace else None
        if options.real:
            with TemporaryDirectory(prefix="cbtfs-model-") as folder:
                played = play(seed, Path(folder), shape, trace)
        else:
            played = History(seed, rules, shape, trace).play()
        counts += played.counts
        if played.loss is not None:
            losses.append(f"seed {seed}: {played.loss}")
    print(f"{len(losses)} of {options.histories} histories lost a point")
    for loss in losses[:1]:
        print(loss)
    print(", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 1 if losses else 0


def _search_worlds(options: argparse.Namespace) -> int:
    is_lost = False
    for name in options.world:
        result = search(WORLDS[name](), Rules(options.without), options.states)
        extent = "complete" if result.is_complete else "not complete"
        print(f"{name:20} {result.states:9} states, {extent}: {result.loss or 'no loss'}")
        for step in result.steps:
            print(f"    {step}")
        is_lost |= result.loss is not None
    return 1 if is_lost else 0


def _try_shortcuts() -> int:
    unknown = False
    for shortcut in SHORTCUTS:
        loss = shortcut.loss()
        names = ", ".join(shortcut.rules)
        print(f"without {names:28} {loss or 'no loss was found'}", flush=True)
        unknown |= loss is None
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
