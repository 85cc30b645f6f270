"""Whether ports can be reached: one TCP connection to each, closed at once."""

import socket
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

Place = tuple[str, int]
_AT_ONCE: Final = 32


def unreachable_places(places: Collection[Place], seconds: float) -> dict[Place, str]:
    """Why those of *places* cannot be reached that cannot; each is given *seconds*.

    The look-up of a name takes as long as the system's resolver lets it.
    """
    if not places:
        return {}
    ordered = sorted(places)
    with ThreadPoolExecutor(min(_AT_ONCE, len(ordered)), "reach") as pool:
        answers = list(pool.map(lambda place: _why_not(place, seconds), ordered))
    return {place: why for place, why in zip(ordered, answers, strict=True) if why is not None}


def _why_not(place: Place, seconds: float) -> str | None:
    try:
        socket.create_connection(place, seconds).close()
    except socket.gaierror:
        return f"the name {place[0]} is not known here, add it to DNS or /etc/hosts"
    except TimeoutError:
        return f"no answer in {seconds:g} s"
    except OSError as exc:
        return exc.strerror or str(exc)
    return None
