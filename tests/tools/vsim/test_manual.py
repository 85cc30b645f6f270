"""docs/vsim.md: the commands run unchanged, the tables name every knob and operation."""

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from tools.vsim.inventory import load_inventory
from tools.vsim.knobs import GROUPS, Knobs
from tools.vsim.operations import Operations

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs" / "vsim.md").read_text()


@pytest.mark.mounts
@pytest.mark.skipif(os.geteuid() != 0, reason="the manual mounts a disk, which takes root")
def test_the_commands_run_unchanged() -> None:
    blocks = re.findall(r"^```(sh|console)\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)
    script = "\n".join(_typed(text) if kind == "console" else text for kind, text in blocks)
    memory = Path("/dev/shm")  # avoids disk I/O; mktemp uses TMPDIR
    environment = {**os.environ, **({"TMPDIR": str(memory)} if memory.is_dir() else {})}
    command = ["bash", "-euc", script]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "web1-flat.vmdk" in done.stdout
    assert [kind for kind, _ in blocks].count("console") == 1
    assert re.search(r"^ +\d+ +\d+ +3 +hole,zero$", done.stdout, re.MULTILINE)


def _typed(session: str) -> str:
    """Return the commands of a console session with the real port, in the state directory."""
    commands = "".join(line.removeprefix("$ ") for line in session.splitlines(keepends=True))
    port = """$(jq -r '.nbd | capture(":(?<port>[0-9]+)").port' "$VSIM/ready.json")"""
    compare = "cmp disk.raw snapshots/snapshot-2/2000.raw"
    return f'(set -e; cd "$VSIM"\n{commands.replace("PORT", port)}{compare})\n'


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)[0]
    scope: dict[str, object] = {}
    exec(compile(code, "docs/vsim.md", "exec"), scope)
    scope["service"]._stub.DropConnections()  # type: ignore[attr-defined]

    assert capsys.readouterr().err == ""


def test_the_manual_lists_every_knob_with_its_default() -> None:
    knobs = Knobs()
    for group in GROUPS:
        values = getattr(knobs, group)
        for knob in fields(values):
            default = getattr(values, knob.name)
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            row = re.search(rf"^\| `{group}\.{knob.name}` \| `?(.*?)`? \|", MANUAL, re.MULTILINE)

            assert row, f"{group}.{knob.name}"
            assert row[1] == (shown or "none")


def test_the_manual_lists_no_other_knob() -> None:
    knobs = Knobs()
    existing = {
        f"{group}.{knob.name}" for group in GROUPS for knob in fields(getattr(knobs, group))
    }

    assert set(re.findall(r"^\| `([a-z]+\.[a-z0-9_]+)` \|", MANUAL, re.MULTILINE)) == existing


def test_the_manual_lists_exactly_the_operations() -> None:
    public = {
        name
        for name in vars(Operations)
        if not name.startswith(("_", "find_", "perform")) and callable(getattr(Operations, name))
    }
    table = MANUAL.partition("| operation | arguments |")[2].partition("\n\n")[0]
    named = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])
    }

    assert named == public


def test_the_example_is_a_valid_inventory() -> None:
    inventory = load_inventory(ROOT / "tools" / "vsim" / "example.toml")

    assert [machine.name for machine in inventory.machines] == ["web1", "old"]
