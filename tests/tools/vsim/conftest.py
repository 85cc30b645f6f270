"""Fixtures: a simulator, and a client with a session."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.tools.vsim.clients import connected, inventory, machine
from tools.vsim import Simulator


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(inventory()) as simulator:
        yield simulator


@pytest.fixture
def service(sim: Simulator) -> Iterator[Any]:
    with connected(sim) as service_instance:
        yield service_instance


@pytest.fixture
def vm(service: Any) -> Any:
    return machine(service)
