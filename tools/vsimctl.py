"""Run one operation of a running simulator.

Usage: python -m tools.vsimctl READY OPERATION [NAME=VALUE …]

READY is a file with the line that the simulator printed, such as ready.json in its state directory.
A value is parsed as JSON if possible, otherwise it is text; @FILE stands for the content of a file.
The result is written to stdout as JSON. `Remote` offers the operations to Python programs; this
module imports nothing from the simulator.
"""

import base64
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ControlError(Exception):
    """Raised when the simulator refuses an operation."""


class Remote:
    """Operations of a simulator in another process, as methods: Remote(…).write(vm=…, …)."""

    def __init__(self, url: str, certificate: str, token: str) -> None:
        self._url = url.removesuffix("/sdk").rstrip("/")
        self._token = token
        context = ssl.create_default_context(cafile=certificate)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)

        def call(**arguments: Any) -> Any:
            if isinstance(arguments.get("data"), bytes):
                arguments["data"] = base64.b64encode(arguments["data"]).decode()
            result = self._post(operation, arguments)
            return base64.b64decode(result) if operation == "read" else result

        return call

    def _post(self, operation: str, arguments: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self._url}/vsim/{operation}",
            json.dumps(arguments).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request) as answer:
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            with error:
                raise ControlError(json.load(error)["error"]) from error


def parse_value(name: str, text: str) -> Any:
    """Return the value of the argument *name* for the control channel."""
    if text.startswith("@"):
        return Path(text[1:]).read_bytes()
    if name == "data":
        return text.encode()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    if len(arguments) < 2 or not all("=" in argument for argument in arguments[2:]):
        print(__doc__, file=sys.stderr)
        return 2
    ready = json.loads(Path(arguments[0]).read_text())
    remote = Remote(ready["url"], ready["certificate"], ready["token"])
    pairs = (argument.partition("=") for argument in arguments[2:])
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
