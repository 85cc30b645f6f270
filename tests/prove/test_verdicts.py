"""Which verdict of a boot passes, and the output of a guest that it depends on."""

import re
from pathlib import Path
from typing import Final

import pytest

from cbtfs.prove.messages import emergency_in, has_no_timer, panic_in
from cbtfs.prove.observe import ACCEPTABLE, PROMPT, VERDICTS, BootOptions, Verdict
from cbtfs.prove.serial_log import load_tail

MIB: Final = 1 << 20
BEST_FIRST: Final = (
    *("agent", "script", "prompt", "settled"),
    *("stuck", "emergency", "panic", "no-boot"),
)


@pytest.mark.parametrize("least", ["agent", "script", "prompt", "settled"])
@pytest.mark.parametrize("verdict", BEST_FIRST)
def test_a_verdict_passes_if_it_is_at_least_the_minimum(least: Verdict, verdict: Verdict) -> None:
    is_enough = BEST_FIRST.index(verdict) <= BEST_FIRST.index(least)

    assert BootOptions(least).passes(verdict) is is_enough


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (BootOptions(), "agent or prompt"),
        (BootOptions("agent"), "agent"),
        (BootOptions("settled", script=Path("/check")), "agent or script or prompt or settled"),
    ],
)
def test_the_verdicts_that_pass_are_named(options: BootOptions, wanted: str) -> None:
    assert options.wanted == wanted


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


@pytest.mark.parametrize(
    ("output", "panic", "emergency", "is_starved"),
    [
        ("[1.0] Kernel panic - not syncing: VFS\n", "Kernel panic - not syncing: VFS", None, False),
        ("Kernel panic - not syncing: IO-APIC + timer doesn't work!", "IO-APIC", None, True),
        ("ALERT!  /dev/sdz1 does not exist.  Dropping to a shell!", None, "ALERT!", False),
        ("You are in emergency mode. After logging in", None, "emergency mode", False),
        ("(initramfs) ", None, "(initramfs)", False),
        ("grub rescue> ", None, "grub rescue>", False),
        ("web01 login: ", None, None, False),
    ],
)
def test_messages_of_failures_are_found(
    output: str, panic: str | None, emergency: str | None, is_starved: bool
) -> None:
    for found, expected in ((panic_in(output), panic), (emergency_in(output), emergency)):
        assert (found is None) is (expected is None)
        assert (expected or "") in (found or "")
    assert has_no_timer(output) is is_starved


def test_the_kept_output_of_a_guest_is_its_end(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    assert load_tail(log) == ""

    log.write_bytes(b"first line\r\n" + b"x" * (64 << 10) + b"last line\r\n")

    assert len(load_tail(log)) == (64 << 10) - 1
    assert load_tail(log).endswith("xlast line\n")


def test_a_guest_that_writes_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    log, most = tmp_path / "serial.log", 0
    with log.open("wb", buffering=0) as qemu:
        for number in range(40):
            qemu.write(b"%1048576d" % number)
            most = max(most, log.stat().st_blocks * 512)
            text = load_tail(log)
            qemu.write(b"!")

            assert text.endswith(f"  {number}")
            assert load_tail(log) == text[1:] + "!"
    assert 8 * MIB < most < 18 * MIB


def test_a_link_in_place_of_the_output_is_not_followed(tmp_path: Path) -> None:
    log, other = tmp_path / "serial.log", tmp_path / "other"
    other.write_bytes(bytes(20 * MIB))
    log.symlink_to(other)

    with pytest.raises(OSError, match="symbolic links"):
        load_tail(log)
    assert other.stat().st_size == 20 * MIB
