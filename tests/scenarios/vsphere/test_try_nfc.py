"""`cbtfs doctor --try-nfc`: a part of a disk, read by NFC and by HTTPS, and a report."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.cli.main import main
from cbtfs.core.extent import Extent, coalesce, total
from cbtfs.doctor.nfc_trial import MOST_BYTES, chosen_ranges
from tests.scenarios.vsphere.server import at
from tests.scenarios.vsphere.site import FIRST, MIB, VM, one_vm
from tools.vsim import DiskEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def off(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A VM that is off; its thin disk has data at both ends and in the middle."""
    inventory = replace(one_vm(DiskEntry(size=200 * MIB)), users=(UserEntry("probe", "hush-9"),))
    with Simulator(inventory, certificate=certificate) as sim:
        monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", sim.user.password)
        sim.do.power(VM, "off")
        for start in (0, 99 * MIB + 512, 199 * MIB):
            sim.do.write(VM, FIRST, start, b"some data of the guest" * 40_000)
        yield sim


def call(sim: Simulator, capsys: Capture, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["doctor", "--try-nfc", *at(sim), *words])
    return code, *capsys.readouterr()


def document(sim: Simulator, capsys: Capture, *words: str) -> tuple[int, Any]:
    code, out, _ = call(sim, capsys, "--json", *words, VM)
    return code, json.loads(out)


def test_a_disk_is_read_both_ways_and_equal(off: Simulator, capsys: Capture) -> None:
    code, report = document(off, capsys)

    assert code == 0
    assert report["equal"]
    assert report["nfc_sha256"] == report["https_sha256"]
    assert 16 * MIB <= report["read_bytes"] <= MOST_BYTES
    assert report["nfc"]["tls"].startswith("TLSv1")
    assert report["nfc"]["pinned_by"] == ["sha1", "sha256"]
    assert 0 < report["disk"]["allocated_bytes"] < 200 * MIB


@pytest.mark.parametrize("pin", ["thumbprint", "wrong"])
def test_the_report_has_no_names_and_secrets(off: Simulator, capsys: Capture, pin: str) -> None:
    off.knobs.change("nfc", pin=pin)
    code, out, err = call(off, capsys, VM)
    secrets = (VM, "datastore1", off.host, off.user.name, off.user.password, "esx")

    assert code == (0 if pin == "thumbprint" else 30)
    assert ("NFC and HTTPS return the same bytes" in out) == (pin == "thumbprint")
    assert [secret for secret in secrets if secret in out + err] == []
    assert off.certificate.thumbprint_sha1 not in out


def test_a_running_vm_is_refused_in_one_line(off: Simulator, capsys: Capture) -> None:
    off.do.power(VM, "on")
    code, out, err = call(off, capsys, VM)

    assert (code, out) == (30, "")
    assert "its power state is poweredOn: shut it down" in err
    assert len(err.splitlines()) == 1
    assert "NfcGetVmFiles" not in off.do.calls()


def test_a_vm_that_is_powered_on_meanwhile_is_reported(off: Simulator, capsys: Capture) -> None:
    off.knobs.change("data", locked_status=404)
    off.do.on_nfc("close", action="operation", operation="power",
                  arguments={"vm": VM, "state": "on"})  # fmt: skip
    code, report = document(off, capsys)

    assert code == 30
    assert not report["equal"]


def test_bytes_that_differ_are_reported(off: Simulator, capsys: Capture) -> None:
    off.do.on_nfc("close", action="operation", operation="write",
                  arguments={"vm": VM, "disk": FIRST, "offset": 3, "data": b"changed"})  # fmt: skip
    code, report = document(off, capsys)

    assert code == 33
    assert [extent["start"] for extent in report["differing"]] == [0]
    assert "1 of" in report["error"]


def test_a_disk_that_https_cannot_read_is_refused(off: Simulator, capsys: Capture) -> None:
    off.do.snapshot(VM, "by hand")
    code, out, err = call(off, capsys, VM)

    assert (code, out) == (30, "")
    assert "no disk can be read by HTTPS, for the comparison: Hard disk 1: the VM has" in err


@pytest.mark.parametrize("names", [("*",), (VM, VM + "x")])
def test_one_vm_must_be_named(off: Simulator, capsys: Capture, names: tuple[str, ...]) -> None:
    off.do.add_vm({"name": "web2", "disk": [{"size": "1M"}]})

    assert call(off, capsys, *names)[0] == 2


@given(
    size=st.integers(1, 1 << 34).map(lambda sectors: sectors * 512),
    used=st.lists(st.tuples(st.integers(0, 1 << 43), st.integers(1, 1 << 30)), max_size=5),
)
def test_the_ranges_are_bounded_disjoint_and_have_both_ends(
    size: int, used: list[tuple[int, int]]
) -> None:
    extents = [Extent(start % size, min(n, size - start % size)) for start, n in used]
    ranges = chosen_ranges(size, list(coalesce(extents)))

    assert ranges[0].start == 0
    assert ranges[-1].end == size
    assert total(ranges) <= MOST_BYTES
    assert all(a.end <= b.start for a, b in pairwise(ranges))


def test_nothing_is_left_on_the_server(off: Simulator, capsys: Capture) -> None:
    call(off, capsys, VM)

    assert off.do.vms()[0]["snapshots"] == []
    assert not +off.do.find_vm(VM).readers
    assert "CreateSnapshot_Task" not in off.do.calls()
