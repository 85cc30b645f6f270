"""`python -m tools.vsim.ctl READY OPERATION [NAME=VALUE …]`: one operation of a running simulator.

READY is a file with the line that the simulator printed, such as ready.json of its state. Values
are JSON where they parse as such, else text; a value that begins with @ is the content of that
file. The result goes to stdout as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tools.vsim.control import ControlError, Remote


def parse_value(name: str, text: str) -> Any:
    """The argument *name* as the control channel wants it."""
    if text.startswith("@"):
        return Path(text[1:]).read_bytes()
    if name == "data":
        return text.encode()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or not all("=" in each for each in arguments[2:]):
        print(__doc__, file=sys.stderr)
        return 2
    ready = json.loads(Path(arguments[0]).read_text())
    remote = Remote(ready["url"], ready["certificate"], ready["token"])
    pairs = (each.partition("=") for each in arguments[2:])
    try:
        result = getattr(remote, arguments[1])(
            **{name: parse_value(name, value) for name, _, value in pairs}
        )
    except ControlError as error:
        print(f"vsim: {error}", file=sys.stderr)
        return 1
    if isinstance(result, bytes):
        sys.stdout.buffer.write(result)
    elif result is not None:
        print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
