"""The fault matrix of NFC through `cbtfs ingest vsphere`: a correct point, or exit 30 and none."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import pytest

from cbtfs.cli.main import main
from cbtfs.source.transport.nfc import options as nfc_options
from cbtfs.source.transport.nfc.wire import Compression
from cbtfs.source.vsphere.connect import session
from tests.ingest.audit.silent_tracker import listed
from tests.scenarios.vsphere.command import arguments
from tests.scenarios.vsphere.site import QUICK, VM, Lab, new_lab, one_vm
from tests.tools.vsim.nfc_matrix import MATRIX, Case
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

SIZE: Final = 400_896
ALL: Final = "CBTFS_NFC_MATRIX" in os.environ
"""CBTFS_NFC_MATRIX=1 runs every case; otherwise one of each group below."""
SOME: Final = (
    "greeting: text 530 Login incorrect",
    "proxy: reset 3",
    "banner: silence",
    "tls: trailing",
    "version: type 99",
    "open: error",
    "read: op-id",
    "read: missing",
    "read: truncated",
    "read: overlapping",
    "read: wrong-total",
    "read: skipz-descending",
    "read: reversed",
    "allocated: error",
    "close: silence",
    "certificate=second",
    "size_delta=512",
    "early_status=False",
    "clear",
)
WAIT: Final = 0.3
"""Seconds that the client waits for an answer in cases that do not get one."""


@dataclass
class Command:
    """A site whose VM is captured by NFC in each test."""

    lab: Lab
    monkeypatch: pytest.MonkeyPatch

    def points(self) -> int:
        return len(list((self.lab.repository / "points").glob("*.state")))

    def run(self, case: Case) -> int:
        """Take a full of the VM while the simulator misbehaves; return the exit code."""
        self.monkeypatch.setattr(session, "RetryPolicy", lambda: QUICK)
        options: Callable[..., nfc_options.NfcOptions] = nfc_options.NfcOptions
        if case.code is not None:
            options = partial(options, compression=Compression(case.code))
        if case.waits:
            options = partial(options, answer_seconds=WAIT, open_seconds=3 * WAIT)
        self.monkeypatch.setattr(nfc_options, "NfcOptions", options)
        more = ("--nfc-mode", "clear") if case.mode == "clear" else ()
        sim = self.lab.sim
        # A read of a repository with blocks of 4096 bytes is at most 256 KiB.
        more_rule = {"offset": 60_000} if case.rule.get("offset") == 300_000 else {}
        replace(case, rule={**case.rule, **more_rule}).apply(sim)
        try:
            return main(arguments(self.lab, "--full", "--transport", "nfc", *more, VM)[3:])
        finally:
            sim.do.reset_knobs()
            sim.knobs.change("snapshot", keep_truth=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Lab]:
    disks = DiskEntry(size=SIZE)
    with Simulator(one_vm(disks, cbt=True), certificate=certificate) as sim:
        made = new_lab(sim, tmp_path_factory.mktemp("matrix"))
        made.write(0, os.urandom(SIZE))
        made.write(100_000, bytes(100_000))
        yield made


@pytest.fixture
def command(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", lab.sim.user.password)
    return Command(lab, monkeypatch)


@pytest.mark.parametrize(
    "case",
    [case for case in MATRIX if ALL or case.name in SOME],
    ids=lambda case: case.name,
)
def test_each_fault_gives_a_correct_point_or_exit_30(
    command: Command, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    before = command.points()
    code = command.run(case)
    out, words = capsys.readouterr()

    assert "Traceback" not in words
    assert command.lab.snapshots() == []
    assert command.lab.run_records() == []
    if code == 30:
        assert case.outcome != "right", words
        assert command.points() == before
    else:
        assert (code, case.outcome != "refused") == (0, True), words
        assert command.points() == before + 1
        points = {str(name): point for name, point in listed(command.lab.repository).items()}
        command.lab.assert_true(points[json.loads(out)["points"][0]["point"]].manifest)


def test_the_chosen_cases_exist() -> None:
    assert set(SOME) == {case.name for case in MATRIX} & set(SOME)
