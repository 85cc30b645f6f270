"""The control channel: the operations as JSON over HTTPS, and the client for it.

POST /vsim/<operation> with a JSON object of arguments and `Authorization: Bearer <token>`; GET does
the same without arguments. The answer is {"result": …}, or {"error": …} with status 400.
"""

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from tools.vsim.operations import REFUSALS, Operations
from tools.vsim.soap.dispatch import Reply


class ControlError(Exception):
    """The operation was refused."""


class Control:
    """Answers requests below /vsim/."""

    def __init__(self, operations: Operations, token: str) -> None:
        self._operations = operations
        self._token = token

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> Reply:
        if not compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return _json(401, {"error": "wrong or no token"})
        name = path.removeprefix("/vsim/")
        try:
            result = self._operations.perform(name, json.loads(body) if body else {})
        except REFUSALS as error:
            return _json(400, {"error": f"{type(error).__name__}: {error}"})
        if isinstance(result, bytes):
            result = base64.b64encode(result).decode()
        return _json(200, {"result": result})


def _json(status: int, document: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(document).encode() + b"\n", content_type="application/json")


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
