"""The control channel: operations as JSON over HTTPS. tools/vsimctl.py is a client.

The request is POST /vsim/<operation> with a JSON object of arguments and `Authorization: Bearer
<token>`, or GET for an operation without arguments. The response is {"result": …}, or {"error":
…} with status 400.
"""

import base64
import json
from hmac import compare_digest
from typing import Any

from tools.vsim.operations import REFUSALS, Operations
from tools.vsim.server.dispatch import Reply


class Control:
    """Answers requests for /vsim/."""

    def __init__(self, operations: Operations, token: str) -> None:
        self._operations = operations
        self._token = token

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> Reply:
        """Run the operation in the path; return its result as a JSON reply."""
        if not compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return _json(401, {"error": "the token is missing or wrong"})
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
