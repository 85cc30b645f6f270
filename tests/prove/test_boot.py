"""`cbtfs prove --level 4`: each way in which a guest can end has its own verdict."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.cli.run_cbtfs import Run, runner
from tests.guest import boot_code
from tests.make_points import new_repository
from tests.prove.images import EXT_MIB, MIB, make_ext4, overwrite, run

pytestmark = pytest.mark.mounts

TEXTS: Final = {
    "prompt": "Debian GNU/Linux 12 web01 ttyS0\r\n\r\nweb01 login: ",
    "panic": "[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
    "emergency": "ALERT! /dev/sdz1 does not exist. Dropping to a shell!\r\n",
    "stuck": "Loading...\r\n",
}
"""Output of the guest on its serial port, by verdict; then it does nothing."""
SHORT: Final = ("prompt", "panic", "no-boot")
"""The verdicts of a short run; CBTFS_BOOTS=all takes all of them."""
REASONS: Final = {
    "prompt": "the serial port shows the prompt",
    "panic": "Kernel panic - not syncing: VFS: Unable to mount root fs",
    "emergency": "ALERT! /dev/sdz1 does not exist. Dropping to a shell!",
    "stuck": "nothing better in 20 s",
    "no-boot": "and started nothing",
}


def _disk(path: Path, text: str | None) -> Path:
    """Make a disk with a partition that passes level 3, and a boot sector with *text*."""
    with path.open("wb") as file:
        file.truncate((EXT_MIB + 2) * MIB)
    run("sfdisk", "--quiet", path, text=f"label: dos\nstart=2048, size={EXT_MIB * 2048}\n")
    part = make_ext4(path.with_suffix(".part"))
    overwrite(path, MIB, part.read_bytes())
    if text is None:
        overwrite(path, 0, b"\xcd\x18")  # int 0x18: the boot has failed
    else:
        # A jump to itself in place of the reset: the guest stays.
        code = boot_code(text).replace(bytes.fromhex("b0fee664ebfe"), bytes.fromhex("f4ebfd9090ff"))
        assert len(code) <= 440
        overwrite(path, 0, code)
    return path


def test_each_end_of_a_boot_has_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("cbtfs.prove.observe.QUIET_SECONDS", 3.0)
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository", 64 << 10), capsys)
    verdicts = SHORT if os.environ.get("CBTFS_BOOTS") != "all" else tuple(REASONS)
    for vm in verdicts:
        disk = _disk(tmp_path / vm, TEXTS.get(vm))
        assert run_cbtfs("ingest", "image", f"--vm={vm}", "--disk=root", disk).code == 0
    evidence = f"--evidence={tmp_path / 'evidence'}"

    timeout = "--boot-timeout=20" if "stuck" in verdicts else "--boot-timeout=120"
    done = run_cbtfs("prove", "*", "--level=4", timeout, evidence, "--json")

    assert done.code == 3, done.err
    assert os.listdir(folder) == []
    for item in done.document["proven"]:
        vm, proof = item["vm"], item["proof"]
        assert proof["verdict"] == vm, proof
        assert item["passed"] is (vm == "prompt")
        assert proof["level"] == (4 if vm == "prompt" else 3)
        assert REASONS[vm] in item["parts"][-1]["text"]
        assert (proof["failure"] is None) is (vm == "prompt")
        log = tmp_path / "evidence" / f"{item['point']}.log"
        assert log.read_text() == TEXTS.get(vm, "").replace("\r", "")
        assert log.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        restored = tmp_path / f"{vm}.restored"
        assert run_cbtfs("restore", vm, "root", restored, "-q").code == 0
        assert restored.read_bytes() == (tmp_path / vm).read_bytes()
    assert len(done.document["proven"]) == len(verdicts)


def test_options_of_a_boot_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository"), capsys)
    for option in (
        *("--min-verdict=stuck", "--min-verdict=script", "--prompt-re=(", "--script=/etc/passwd"),
        f"--evidence={tmp_path / 'repository'}",
    ):
        assert run_cbtfs("prove", "--due", option).code == 2
