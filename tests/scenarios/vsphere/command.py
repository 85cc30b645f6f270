"""`cbtfs ingest vsphere` as a process, against a simulator in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.make_points import SIGNALS
from tests.scenarios.vsphere.site import VM, Lab
from tools.vsim import Simulator

ROOT = Path(__file__).parents[3]
KILLS: Final = int(os.environ.get("CBTFS_KILLS", "4"))
"""Kills at random moments in each test that has them."""


def arguments(lab: Lab, *more: str) -> list[str]:
    """Return the command line, without the password."""
    sim = lab.sim
    return [
        sys.executable, "-m", "cbtfs", "--repo", str(lab.repository),
        "ingest", "vsphere", "--json",
        "--server", f"{sim.host}:{sim.port}", "--user", sim.user.name,
        "--ca-file", str(sim.certificate.certificate), *(more or (VM,)),
    ]  # fmt: skip


def environment(sim: Simulator, **more: str) -> dict[str, str]:
    return {**os.environ, "CBTFS_VSPHERE_PASSWORD": sim.user.password, **more}


def start(lab: Lab, *more: str) -> "subprocess.Popen[str]":
    """Start the command; its standard output and error are pipes."""
    return subprocess.Popen(
        [*SIGNALS, *arguments(lab, *more)],
        cwd=ROOT,
        env=environment(lab.sim),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(lab: Lab, *more: str) -> tuple[int, dict[str, Any], str]:
    """Wait for the command; return its exit code, document and messages."""
    with start(lab, *more) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out) if out else {}, err
