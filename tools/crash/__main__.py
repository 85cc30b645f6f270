"""Run crash campaigns and print their counts: `python -m tools.crash`."""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.crash.campaigns import CAMPAIGNS
from tools.crash.result import table
from tools.crash.verify import Violation

SEED = 20261122


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.crash", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the campaigns")
    parser.add_argument(
        "--campaign", action="append", choices=CAMPAIGNS, help="run this campaign only"
    )
    parser.add_argument("--long", action="store_true", help="run the long form")
    parser.add_argument("--count", type=int, help="number of rounds, instead of that of the form")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--folder", type=Path, help="work folder (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.list:
        for name, campaign in CAMPAIGNS.items():
            print(f"{name:10} {campaign.short:5} {campaign.long:6}  {campaign.about}")
        return 0
    logging.disable(logging.WARNING)  # repairs are expected here
    results = []
    for name in options.campaign or CAMPAIGNS:
        campaign = CAMPAIGNS[name]
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cbtfs-crash-", dir=options.folder) as folder:
            try:
                count = options.count or (campaign.long if options.long else campaign.short)
                results.append(campaign.run(Path(folder), options.seed, count))
            except Violation as exc:
                print(f"{name}, seed {options.seed}: LOST: {exc}", file=sys.stderr)
                return 1
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(table(results, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
