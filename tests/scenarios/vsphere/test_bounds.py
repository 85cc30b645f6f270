"""Endless answers cause an error that names the server, or a full scan."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from pyVmomi import vim

from cbtfs.cli.main import main
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.answers import MAX_BYTES, AnswerLimits, AnswerRefused
from cbtfs.source.vsphere.inventory.machine import entries_of
from cbtfs.source.vsphere.inventory.vms import list_vms
from tests.scenarios.vsphere.server import at, call
from tests.scenarios.vsphere.site import FIRST, MIB, QUICK, VM, Lab, kinds, new_lab, one_vm, reasons
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

Capture = pytest.CaptureFixture[str]
QUICK_TO_REFUSE: Final = replace(QUICK, max_pages=20, max_updates=20)


@pytest.fixture
def small(certificate: Certificate, tmp_path: Path) -> Iterator[Lab]:
    """A site with one small VM, and a client with short timeouts."""
    with Simulator(one_vm(DiskEntry(size=MIB)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.retry_policy = QUICK_TO_REFUSE
        yield lab


def server(lab: Lab) -> str:
    return f"127.0.0.1:{lab.sim.port}"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"endless_pages": True}, "answers with more than 20 pages of properties"),
        ({"parent_cycle": True}, "as if a folder contained itself"),
        ({"padding": 300 * MIB}, f"answers with more than {MAX_BYTES} bytes"),
        ({"padding": MAX_BYTES + MIB, "gzip": True}, f"answers with more than {MAX_BYTES} bytes"),
        ({"entities": 9}, "answers with a document type"),
    ],
    ids=str,
)
def test_an_endless_inventory_is_refused(small: Lab, knobs: dict[str, Any], words: str) -> None:
    with small.session() as session:
        small.sim.knobs.change("answer", **knobs)
        small.sim.do.calls(clear=True)
        with pytest.raises(SourceUnavailable, match=words) as refused:
            list_vms(session)
        asked = small.sim.do.calls()
        small.sim.do.reset_knobs()
        assert len(list_vms(session)) == 1  # the next call gets a new connection

    assert server(small) in str(refused.value)
    assert asked.count("RetrievePropertiesEx") == 1


def test_an_answer_that_arrives_too_slowly_is_refused(small: Lab) -> None:
    """Each byte arrives in time, but the whole answer does not."""
    with small.session() as session:
        small.sim.knobs.change("answer", drip_seconds=0.02)
        session._instance._stub.scheme.keywords["limits"] = AnswerLimits(0.2, is_xml=True)
        session._instance._stub.DropConnections()
        with pytest.raises(AnswerRefused, match=r"did not complete an answer in 0\.2 s") as refused:
            list_vms(session)
        small.sim.do.reset_knobs()

    assert server(small) in str(refused.value)


@pytest.mark.parametrize("padding", [0, 3 * MIB])
def test_compressed_answers_are_read(small: Lab, padding: int) -> None:
    small.sim.knobs.change("answer", gzip=True, padding=padding)
    with small.session() as session:
        assert [vm.name for vm in list_vms(session)] == [VM]
        assert [vm.name for vm in list_vms(session)] == [VM]  # by the same connection


def test_updates_that_are_always_truncated_end_the_run(small: Lab) -> None:
    small.sim.knobs.change("answer", always_truncated=True)
    with pytest.raises(
        SourceUnavailable, match="did not complete the updates of a task"
    ) as refused:
        small.ingest()
    small.sim.do.reset_knobs()

    assert server(small) in str(refused.value)
    small.ingest()
    small.assert_clean()


def test_an_endless_change_list_causes_a_full(small: Lab) -> None:
    small.ingest()
    small.sim.do.set_disk_cbt(VM, FIRST, page_span=512)
    manifest = small.ingest().manifest

    assert kinds(manifest) == ["full"]
    assert f"{server(small)} needs more than 20 pages" in reasons(manifest)["Hard disk 1"]


def test_snapshots_in_too_many_levels_are_refused() -> None:
    tree: list[Any] = []
    for number in range(200):
        snapshot = vim.vm.Snapshot(f"snapshot-{number}")
        tree = [
            vim.vm.SnapshotTree(snapshot=snapshot, name=str(number), childSnapshotList=tree),
        ]

    with pytest.raises(SourceUnavailable, match=r"vc1 reports more than 100 levels"):
        entries_of(vim.vm.SnapshotInfo(rootSnapshotList=tree), "vc1")


def test_a_server_without_the_current_session_causes_no_traceback(
    small: Lab, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    small.sim.knobs.change("answer", current_session=False)
    code, _, words = call(small.sim, capsys, "doctor", VM)

    assert code == 30
    assert words.count("\n") == 1
    assert f"{server(small)} does not report the current session" in words


def test_the_command_refuses_a_gzip_bomb_in_one_line(
    small: Lab, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    small.sim.knobs.change("answer", padding=MAX_BYTES + MIB, gzip=True)
    code = main(["cbt", "status", *at(small.sim), VM])

    assert code == 30
    assert capsys.readouterr().err.count("\n") == 1
