"""Play histories of the model: `python -m tools.model`."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from tools.model.history import History, Shape
from tools.model.rules import Rule, Rules


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.model", description=__doc__)
    parser.add_argument("--histories", type=int, default=300, help="number of seeds")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--prunes", type=int, default=2, help="largest number of prunes at once")
    parser.add_argument("--steps", type=int, default=Shape().steps, help="steps of a history")
    parser.add_argument("--without", action="append", default=[], type=Rule, metavar="RULE")
    parser.add_argument("--shortcuts", action="store_true", help="omit each rule in turn")
    parser.add_argument("--trace", action="store_true", help="print the changes of one history")
    options = parser.parse_args(arguments)
    shape = Shape(options.prunes, options.steps)
    if options.shortcuts:
        for rule in Rule:
            _report(options, shape, [rule])
        return 0
    return _report(options, shape, options.without)


def _report(options: argparse.Namespace, shape: Shape, without: Sequence[Rule]) -> int:
    rules = Rules(without)
    lost = 0
    counts: Counter[str] = Counter()
    first = ""
    for seed in range(options.seed, options.seed + options.histories):
        played = History(seed, rules, shape, print if options.trace else None).play()
        counts += played.counts
        if played.loss is not None:
            lost += 1
            first = first or f"; seed {seed}: {played.loss}"
    name = ", ".join(without) or "all rules"
    print(f"{name:26} {lost:5} of {options.histories} lost{first}", flush=True)
    if not without:
        print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
