"""Which verdict of a boot passes, and what an observer finds in the output of a guest."""

import re
from pathlib import Path
from threading import Event
from typing import Final, cast

import pytest

from cbtfs.prove.observe import ACCEPTABLE, PROMPT, VERDICTS, BootOptions, Observer, Verdict
from cbtfs.qemu.guest import Guest
from cbtfs.qemu.machine import Consoles

BEST_FIRST: Final = (
    *("agent", "script", "prompt", "settled"),
    *("stuck", "emergency", "panic", "no-boot"),
)


@pytest.mark.parametrize("least", ["agent", "script", "prompt", "settled"])
@pytest.mark.parametrize("verdict", BEST_FIRST)
def test_a_verdict_passes_if_it_is_at_least_the_minimum(least: Verdict, verdict: Verdict) -> None:
    is_enough = BEST_FIRST.index(verdict) <= BEST_FIRST.index(least)

    assert BootOptions(least).passes(verdict) is is_enough


def test_by_default_a_prompt_passes() -> None:
    assert BootOptions().least == "prompt"
    assert (*ACCEPTABLE, *BEST_FIRST[4:]) == VERDICTS


@pytest.mark.parametrize(
    ("output", "is_prompt"),
    [
        ("Debian GNU/Linux 12 web01 ttyS0\n\nweb01 login: ", True),
        ("login:", True),
        ("db-1.example.org login: ", True),
        ("web01 login: root\n", False),
        ("web01 login: \nThe system is going down for reboot", False),
        ("Last login: Mon Nov 29", False),
        ("starting relogin:", False),
        ("", False),
    ],
)
def test_a_login_prompt_is_the_end_of_the_output(output: str, is_prompt: bool) -> None:
    assert bool(re.search(PROMPT, output)) is is_prompt


def test_the_kept_output_of_a_guest_is_its_end(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    consoles = Consoles(tmp_path / "serial.sock", log)
    observer = Observer(cast("Guest", None), consoles, BootOptions(), tmp_path, Event())
    assert observer.serial() == ""

    log.write_bytes(b"first line\r\n" + b"x" * (64 << 10) + b"last line\r\n")

    assert len(observer.serial()) == (64 << 10) - 1
    assert observer.serial().endswith("xlast line\n")
