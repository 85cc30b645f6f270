"""One certificate for all simulators, and a test site with one VM."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.source.secret import Secret
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import verifying
from tests.make_points import MEMORY
from tests.scenarios.vsphere.chances import STORES
from tests.scenarios.vsphere.site import QUICK, Lab, new_lab, one_vm
from tests.scenarios.vsphere.vm_history import Site
from tools.vsim import DatastoreEntry, Inventory, Simulator
from tools.vsim.soap.certificate import Certificate, make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def lab(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """A site with a running VM with two disks; the first has some data."""
    with Simulator(one_vm(), certificate=certificate) as sim:
        made = new_lab(sim, tmp_path)
        made.write(100_000, b"before the first point" * 1000)
        yield made


@pytest.fixture
def tracked(lab: Lab) -> Lab:
    """The same site after one point and a later write."""
    lab.ingest()
    lab.write(300_000, b"after the first point" * 1000)
    lab.sim.do.calls(clear=True)
    return lab


@pytest.fixture(scope="module")
def site(certificate: Certificate) -> Iterator[Site]:
    """A site for many histories, in memory: they do not test durability."""
    place = MEMORY if MEMORY.is_dir() else None
    stores = tuple(DatastoreEntry(name) for name in STORES)
    with (
        tempfile.TemporaryDirectory(prefix="cbtfs-histories-", dir=place) as folder,
        Simulator(Inventory(datastores=stores), Path(folder), certificate=certificate) as sim,
        Session(
            Address(sim.host, sim.port),
            verifying(certificate.certificate),
            Credentials(sim.user.name, Secret(sim.user.password)),
            QUICK,
        ) as session,
    ):
        yield Site(sim, session, Path(folder))
