"""`python -m tools.vsimctl READY OPERATION [NAME=VALUE …]`: one operation of a running simulator.

READY is a file with the line that the simulator printed, such as ready.json of its state. Values
are JSON where they parse as such, else text; a value that begins with @ is the content of that
file. The result goes to stdout as JSON. `Remote` is the same for Python; it needs nothing of the
simulator's own code.
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
    """The operation was refused."""


class Remote:
    """The operations of a simulator in another process: Remote(…).write(vm=…, …)."""

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
