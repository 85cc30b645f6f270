"""`cbtfs list` and `cbtfs show`."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from cbtfs.core.manifest import Manifest, PointState
from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import Run, process, read_terminal
from tests.make_points import BLOCK, add_point, commit_point
from tests.mount.mount_process import corrupt
from tests.volumes.images import gpt_disk

HOSTILE = "../\x1b[31mvm\u202e\n"
DATA = b"\x01" * BLOCK


def test_list_json_is_the_contract(repository: Path) -> None:
    first = add_point(repository, {"root": DATA + bytes(BLOCK), "swap": bytes(100)})
    second = add_point(repository, {"root": DATA * 2}, changed={"root": [1]})

    done = process("--repo", repository, "list", "--json")

    read = {
        "method": "full",
        "reason": "first",
        "full_reason": None,
        "read_bytes": 0,
        "stored_bytes": 0,
    }
    assert done.code == 0
    assert done.err == ""
    assert done.document == {
        "points": [
            {
                "id": first.point,
                "vm": "vm",
                "vm_id": first.vm.id,
                "label": "vm",
                "time": "2026-01-01T00:00:01Z",
                "name": "2026-01-01T00-00-01Z",
                "time_source": "clock",
                "is_out_of_order": False,
                "kind": "full",
                "state": [],
                "tags": [],
                "proof_level": None,
                "disks": [
                    {"disk": "root", "size": 2 * BLOCK, "data_bytes": BLOCK, **read},
                    {"disk": "swap", "size": 100, "data_bytes": 0, **read},
                ],
                "files": [],
                "written_bytes": 0,
                "stored_bytes": 0,
            },
            {
                "id": second.point,
                "vm": "vm",
                "vm_id": second.vm.id,
                "label": "vm",
                "time": "2026-01-01T00:00:02Z",
                "name": "2026-01-01T00-00-02Z",
                "time_source": "clock",
                "is_out_of_order": False,
                "kind": "incremental",
                "state": [],
                "tags": [],
                "proof_level": None,
                "disks": [
                    {
                        "disk": "root",
                        "size": 2 * BLOCK,
                        "data_bytes": 2 * BLOCK,
                        **read,
                        "method": "incremental",
                        "reason": "a test asked for it",
                    }
                ],
                "files": [],
                "written_bytes": 0,
                "stored_bytes": 0,
            },
        ]
    }


def test_an_empty_repository_lists_nothing(run: Run) -> None:
    assert run("list", "--json").document == {"points": []}
    assert run("list").code == 0


def test_list_names_one_vm(run: Run, repository: Path) -> None:
    add_point(repository, {"d": DATA}, vm="web")
    wanted = add_point(repository, {"d": DATA}, vm="db")

    done = run("list", "db", "--json")

    assert [point["id"] for point in done.document["points"]] == [wanted.point]
    assert run("list", "mail").code == 13


def test_vms_are_listed_by_name(run: Run, repository: Path) -> None:
    for name in ("web", "db", "mail"):
        add_point(repository, {"d": DATA}, vm=name)

    lines = run("list").out.splitlines()

    assert [line.split()[0] for line in lines] == ["VM", "db", "mail", "web"]


def test_a_hostile_name_is_harmless_on_a_terminal(run: Run, repository: Path) -> None:
    add_point(repository, {"d": DATA}, vm=HOSTILE)

    table, document = run("list"), run("list", "--json")

    assert len(table.out.splitlines()) == 2
    assert "\x1b" not in table.out + document.out
    assert "\u202e" not in table.out + document.out
    assert document.document["points"][0]["vm"] == HOSTILE


def test_marks_are_listed(run: Run, repository: Path) -> None:
    manifest = add_point(repository, {"d": DATA})
    with writing(repository) as opened:
        opened.points.put_state(PointState(manifest.point, is_protected=True, suspect="a reason"))
    with writing(repository):
        """Opening for writing takes note of the state."""

    listed = run("list", "--json").document["points"][0]
    shown = run("show", "vm@latest", "--json").document

    assert listed["state"] == ["suspect", "protected"]
    assert shown["state"] == ["suspect", "protected"]
    assert shown["suspect"] == "a reason"


def test_show_json_tells_all(run: Run, repository: Path) -> None:
    manifest = add_point(repository, {"root": DATA + bytes(10)})
    disk = manifest.disks[0]

    done = run("show", "vm@latest", "--json")

    assert done.document == {
        "id": manifest.point,
        "vm": {
            "id": manifest.vm.id,
            "name": "vm",
            "directory": "vm",
            "vcenter": None,
            "instance_uuid": None,
        },
        "label": "vm",
        "time": "2026-01-01T00:00:01Z",
        "time_source": "clock",
        "name": "2026-01-01T00-00-01Z",
        "order": 1,
        "kind": "full",
        "reason": "first",
        "committed": "2026-01-01T00:00:01Z",
        "run": manifest.run,
        "program": "tests",
        "state": [],
        "suspect": None,
        "tags": [],
        "verified": None,
        "disks": [
            {
                "disk": "root",
                "id": disk.id,
                "identity": "root",
                "type": "disk",
                "size": BLOCK + 10,
                "block_size": BLOCK,
                "data_bytes": BLOCK,
                "root": disk.root.hex(),
                "kind": "full",
                "reason": "first",
                "parent": None,
                "change_id": None,
                "suspect": None,
                "audit": None,
                "allocation": None,
                "read_bytes": 0,
                "written_blocks": 0,
                "zero_blocks": 0,
                "new_bytes": 0,
                "stored_bytes": 0,
                "images": ["as/root.qcow2", "as/root.vmdk"],
            }
        ],
        "proof": None,
        "metadata": {},
        "guest_files": "files",
        "slices": [],
        "omitted_slices": [],
    }


def test_show_lists_slices_and_reasons(run: Run, repository: Path) -> None:
    image = bytes(gpt_disk(64 * BLOCK, 512, [(64, 127), (500, 600)]))
    add_point(repository, {"data": DATA, "root": image})

    document = run("show", "vm", "--json").document

    assert document["slices"] == [
        {"path": "slices/root.p1.raw", "size": 64 * 512, "disks": ["root"]}
    ]
    assert document["omitted_slices"] == [
        {
            "name": "root.p2",
            "reason": "it ends at byte 307712, beyond the end of the disk",
        }
    ]
    shown = run("show", "vm").out
    assert "slice slices/root.p1.raw\n  size     32768 bytes, 32.0 KiB\n" in shown
    assert "no slice root.p2: it ends at byte 307712, beyond the end of the disk\n" in shown


def test_show_tells_why_slices_are_unknown(run: Run, repository: Path) -> None:
    """The table cannot be read; everything else is shown, and the exit code is 0."""
    image = bytes(gpt_disk(64 * BLOCK, 512, [(64, 127)]))
    add_point(repository, {"root": image})
    corrupt(repository, image[:BLOCK])

    done = run("show", "vm", "--json")

    ((name, reason),) = [tuple(omitted.values()) for omitted in done.document["omitted_slices"]]
    assert (done.code, name) == (0, "slices")
    assert reason.startswith(f"cannot find the slices of point {done.document['id']}: ")


def test_show_in_words_names_what_matters(run: Run, repository: Path) -> None:
    manifest = add_point(repository, {"root": DATA}, vm=HOSTILE)

    done = run("show", manifest.point[:8])

    assert done.code == 0
    assert manifest.point in done.out
    assert "root" in done.out
    assert "\x1b" not in done.out


def test_an_ambiguous_id_lists_the_candidates(run: Run, repository: Path) -> None:
    points: list[Manifest] = []
    while len({point.point[0] for point in points}) == len(points):
        points.append(add_point(repository, {"d": DATA}))
    digit = points[-1].point[0]

    done = run("show", digit)

    assert done.code == 13
    assert all(p.point in done.err for p in points if p.point[0] == digit)


def test_a_terminal_gets_literal_names(repository: Path) -> None:
    """Rich would interpret [brackets] as markup."""
    add_point(repository, {"d": DATA}, vm="[red]vm")
    main, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cbtfs", "--repo", repository, "list"], stdout=side, stderr=side
    ) as listing:
        os.close(side)
        drawn = read_terminal(main)
        assert listing.wait() == 0
    os.close(main)

    assert "[red]vm" in drawn


def test_a_small_file_is_no_disk_and_is_shown(run: Run, repository: Path, tmp_path: Path) -> None:
    with writing(repository) as opened:
        commit_point(opened, {"web.vmx": b"memSize"}, kind="file")

    listed = run("list", "--json").document["points"][0]
    shown = run("show", "vm@latest", "--json").document
    words = run("show", "vm@latest").out
    run("restore", "vm@latest", "web.vmx", tmp_path / "web.vmx")

    assert (listed["disks"], listed["files"]) == ([], [{"file": "web.vmx", "size": 7}])
    assert [(disk["disk"], disk["type"]) for disk in shown["disks"]] == [("web.vmx", "file")]
    assert "file web.vmx\n  size     7 bytes" in words
    assert (tmp_path / "web.vmx").read_bytes() == b"memSize"
