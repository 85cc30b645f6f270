"""Errors cross the pipe between processes of the mount with their class and their message."""

import inspect
import os

import pytest

from cbtfs import errors
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.mount.readiness_pipe import READY, parse_error, send_error, send_ready

CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, CbtfsError)
]


class Outage(SourceUnavailable):
    """A class that is defined elsewhere and overrides the exit code of none."""


def crossed(*sent: CbtfsError) -> CbtfsError | None:
    """The error that arrives at the other end of a pipe."""
    heard, report = os.pipe()
    for exc in sent:
        send_error(report, exc)
    os.close(report)
    with open(heard, "rb") as file:
        return parse_error(file.read())


def test_there_are_classes_to_send() -> None:
    assert {CbtfsError, SourceUnavailable} < set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_of_error_survives(cls: type[CbtfsError]) -> None:
    arrived = crossed(cls("points/ of 'web\u0301': it is gone; restore it"))

    assert type(arrived) is cls
    assert str(arrived) == "points/ of 'web\u0301': it is gone; restore it"


def test_a_class_defined_elsewhere_arrives_as_its_nearest_base() -> None:
    arrived = crossed(Outage("the cable is out"))

    assert type(arrived) is SourceUnavailable
    assert str(arrived) == "the cable is out"


def test_the_last_of_several_errors_counts() -> None:
    assert str(crossed(CbtfsError("first"), CbtfsError("second"))) == "second"


def test_a_process_that_is_ready_sends_no_error() -> None:
    heard, report = os.pipe()
    send_ready(report)
    os.close(report)
    with open(heard, "rb") as file:
        data = file.read()

    assert data == READY
    assert parse_error(data) is None
