"""One certificate for all simulators, and a lab with one VM."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vsphere.support import Lab, new_lab, one_vm
from tools.vsim import Simulator
from tools.vsim.soap.certificate import Certificate, make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def lab(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A VM that is on, with two disks; the first holds some data."""
    with Simulator(one_vm(), certificate=certificate) as sim:
        made = new_lab(sim, tmp_path)
        made.write(100_000, b"before the first point" * 1000)
        yield made


@pytest.fixture
def tracked(lab: Lab) -> Lab:
    """The same with one point taken, and something written since."""
    lab.ingest()
    lab.write(300_000, b"after the first point" * 1000)
    lab.sim.do.calls(clear=True)
    return lab
