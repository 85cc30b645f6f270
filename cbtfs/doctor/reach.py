"""Check whether ports are reachable, by one TCP connection to each that is closed at once."""

import socket
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

Endpoint = tuple[str, int]
_AT_ONCE: Final = 32
"""Maximum number of concurrent connections."""


def unreachable_endpoints(endpoints: Collection[Endpoint], seconds: float) -> dict[Endpoint, str]:
    """Return the unreachable endpoints with the reason; the timeout of each is *seconds*.

    The timeout does not cover the resolution of a name, which has that of the system's resolver.
    """
    if not endpoints:
        return {}
    ordered = sorted(endpoints)
    with ThreadPoolExecutor(min(_AT_ONCE, len(ordered)), "reach") as pool:
        answers = list(pool.map(lambda endpoint: _why_not(endpoint, seconds), ordered))
    return {
        endpoint: why for endpoint, why in zip(ordered, answers, strict=True) if why is not None
    }


def _why_not(endpoint: Endpoint, seconds: float) -> str | None:
    try:
        socket.create_connection(endpoint, seconds).close()
    except socket.gaierror:
        return f"the name {endpoint[0]} cannot be resolved, add it to DNS or /etc/hosts"
    except TimeoutError:
        return f"no answer in {seconds:g} s"
    except OSError as exc:
        return exc.strerror or str(exc)
    return None
