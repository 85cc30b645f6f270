"""overlays/: a pin for each overlay, which keeps the restore point that the overlay needs.

A pin is made without the writer's lock, so an overlay does not wait for a running ingest. Two
rules replace the lock. A lock on the directory points/ is held while a pin is written and the
manifest of its point is checked, and while `forget` compares points with pins and renames their
manifests: one of the two comes first. And a lease on the point is held from before the first check
until the pin is durable, so no prune removes objects in between; later prunes list the pin.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from cbtfs.core.ids import PointId, is_id
from cbtfs.core.pin import Pin, PinId, decode_pin, encode_pin
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.core.settings import PINS
from cbtfs.errors import CbtfsError, DataCorrupt, PointNotFound
from cbtfs.store.backend.base import Backend
from cbtfs.store.backend.layout import OVERLAYS, make_pins, open_pins, open_points
from cbtfs.store.points import Points
from cbtfs.store.settings import add_feature, load_settings
from cbtfs.store.shared.requests import create_own
from cbtfs.store.storing import storing


class PointPinned(CbtfsError):
    """Raised if a point is needed by an overlay."""


def put_pin(path: Path, points: Points, pin: Pin) -> None:
    """Write *pin* to the repository at *path*: from here on its point stays. Takes no writer lock.

    The first pin adds the required feature, so that programs without pins refuse the repository.

    Raises:
        PointNotFound: the point does not exist or was forgotten; there is no pin then.
    """
    if load_settings(path).is_shared:
        _put_shared(path, points, pin)
        return
    with points.leased(pin.point):
        with storing("the directory of pins"):
            make_pins(path)
        with _locked(path), closing(open_pins(path)) as pins, storing("a pin"):
            add_feature(path, PINS)
            pins.create(pin.id, encode_pin(pin))
            if pin.point not in points.ids():
                _remove(pins, pin.id)
                raise PointNotFound(f"point {pin.point} is gone")


def _put_shared(path: Path, points: Points, pin: Pin) -> None:
    """Write a pin, then verify that its point is listed (docs/decisions/0046).

    A prune that does not see the pin has ended the log of the point before.
    """
    with closing(open_pins(path)) as pins, storing("a pin"):
        pin_listed(pins, points, pin)


def pin_listed(pins: Backend, points: Points, pin: Pin) -> None:
    """Write a pin, and remove it again unless its point is listed.

    Raises:
        PointNotFound: the point is not listed; there is no pin.
    """
    with points.leased(pin.point):
        create_own(pins, pin.id, encode_pin(pin))
        if pin.point not in points.ids():
            pins.delete(pin.id)
            raise PointNotFound(f"point {pin.point} is gone")


def remove_pin(path: Path, pin: PinId) -> None:
    """Remove a pin, durably; its point is then kept like any other. The pin may be gone."""
    try:
        pins = open_pins(path)
    except FileNotFoundError:
        return
    with closing(pins), storing("the directory of pins"):
        _remove(pins, pin)


def _remove(pins: Backend, pin: PinId) -> None:
    pins.delete(pin)
    pins.flush()


def load_pins(path: Path) -> list[Pin]:
    """Return all pins of the repository at *path*, ordered by name.

    Raises:
        DataCorrupt: a pin is damaged, so its point is unknown, or overlays/ is missing.
    """
    try:
        with closing(open_pins(path)) as pins:
            return pins_in(pins)
    except FileNotFoundError as exc:
        _refuse_missing(path, exc)
        return []


def _refuse_missing(path: Path, error: FileNotFoundError) -> None:
    """Raise DataCorrupt if the repository has pins, but no overlays/."""
    settings = load_settings(path)
    if settings.is_shared or PINS in settings.required:
        raise DataCorrupt(
            f"{path / OVERLAYS} is missing, so the points that overlays need are unknown: restore "
            "it from a copy, or create an empty directory if there is no overlay any more"
        ) from error


def pins_in(backend: Backend) -> list[Pin]:
    """Return all pins of a backend, ordered by name; raises what load_pins() raises."""
    pins = []
    for name in sorted(filter(is_id, backend.names())):
        try:
            pin = decode_pin(backend.get(name, 0, MAX_BYTES + 1).data)
            if pin.id != name:
                raise ValueError("it is another pin")
        except FileNotFoundError:
            continue  # It was removed since.
        except OSError as exc:
            raise DataCorrupt(f"cannot read pin {OVERLAYS}/{name}: {exc.strerror}") from exc
        except ValueError as exc:
            raise DataCorrupt(
                f"pin {OVERLAYS}/{name} is damaged: {exc}; its point is unknown: restore the file "
                "from a copy, or remove it and create the overlay again"
            ) from exc
        pins.append(pin)
    return sorted(pins, key=lambda pin: (pin.name, pin.id))


def pins_by_point(pins: Iterable[Pin]) -> Mapping[PointId, list[Pin]]:
    """Return the pins of each pinned point."""
    by_point: dict[PointId, list[Pin]] = {}
    for pin in pins:
        by_point.setdefault(pin.point, []).append(pin)
    return by_point


@contextmanager
def unpinned(path: Path, points: Collection[PointId]) -> Iterator[None]:
    """Ensure that none of *points* is pinned until the end of the block. Only for the writer.

    Raises:
        PointPinned: a point is needed by an overlay, which the error names.
    """
    if load_settings(path).is_shared:  # A prune keeps pinned points, also forgotten ones.
        refuse_pinned(load_pins(path), points)
        yield
        return
    with _locked(path):
        refuse_pinned(load_pins(path), points)
        yield


def refuse_pinned(pins: Iterable[Pin], points: Collection[PointId]) -> None:
    """Raise PointPinned if one of *points* is pinned."""
    for pin in pins:
        if pin.point in points:
            raise PointPinned(
                f"point {pin.point} is needed by {pin.described}: run 'cbtfs overlay discard' for "
                "it first, with --lost if its directory is gone"
            )


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of interrupted programs. Only for the writer."""
    with suppress(FileNotFoundError), closing(open_pins(path)) as pins:
        if pins.unfinished():
            with _locked(path), storing("the directory of pins"):
                pins.discard_unfinished()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that orders new pins and the renames of `forget`."""
    with closing(open_points(path)) as points, points.locked():
        yield
