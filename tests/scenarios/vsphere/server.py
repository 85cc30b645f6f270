"""Calls of commands that need a server but no repository, in this process."""

import json
from typing import Any

import pytest

from cbtfs.cli.main import main
from tools.vsim import Simulator
from tools.vsim.inventory import UserEntry


def at(sim: Simulator, user: UserEntry | None = None) -> list[str]:
    """Return the login options for a simulator."""
    name = (user or sim.user).name
    return [
        "--server", f"{sim.host}:{sim.port}", "--user", name,
        "--ca-file", str(sim.certificate.certificate),
    ]  # fmt: skip


def call(
    sim: Simulator,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    user: UserEntry | None = None,
) -> tuple[int, dict[str, Any], str]:
    """Call a command with --json; return its exit code, document and messages."""
    code = main([*arguments, "--json", *at(sim, user)])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err
