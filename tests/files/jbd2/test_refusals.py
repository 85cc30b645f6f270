"""Journals that are not replayed, each with its reason, and logs written by debugfs."""

import struct
import subprocess
from pathlib import Path

import pytest

from cbtfs.files.jbd2.checksum import BigEndianCrc32
from cbtfs.files.jbd2.refusal import Reason, ReplayRefused
from cbtfs.files.jbd2.replay import ReplayedVolume, replayed
from tests.files.jbd2.busy import MAGIC, MIB, run
from tests.volumes.images import Memory
from tools.fuzz.jbd2 import a_log, head, journal_superblock

JOURNAL = 64 * 1024
SIZE = 4096 * 1024


def volume(log: bytes = a_log(), superblock: bytes = journal_superblock(0, 3)) -> bytearray:
    """Return a volume of 4 MiB whose journal has *log*."""
    data = bytearray(SIZE)
    start = head()
    data[: len(start)] = start
    data[JOURNAL : JOURNAL + len(superblock) + len(log)] = superblock + log
    return data


def outcome(data: bytearray) -> ReplayedVolume:
    result = replayed(Memory(bytes(data)))
    assert result is not None
    return result


def refusal(data: bytearray) -> ReplayRefused:
    with pytest.raises(ReplayRefused) as raised:
        replayed(Memory(bytes(data)))
    return raised.value


def test_the_last_version_of_a_block_is_read_unless_it_was_revoked() -> None:
    result = outcome(volume())

    assert result.replaced == [201, 202]
    assert result.read(201 * 1024, 11) == MAGIC + b"escaped"
    assert result.read(200 * 1024, 9) == bytes(9)
    assert result.read(201 * 1024 + 2, 4) == MAGIC[2:] + b"es"
    assert result.read(201 * 1024 - 1, 3) == b"\0" + MAGIC[:2]
    assert result.read(SIZE - 5, 100) == bytes(5)


def test_a_transaction_without_a_commit_block_is_left_out() -> None:
    log = a_log()

    assert outcome(volume(log[:-1024])).replaced == [200, 201]
    assert outcome(volume(log[:3072])).replaced == []


def test_a_block_that_is_written_after_its_revocation_is_read() -> None:
    log = bytearray(a_log())
    log[5 * 1024 + 12 : 5 * 1024 + 16] = (200).to_bytes(4, "big")
    again = bytes(log[5 * 1024 :])
    third = again.replace((8).to_bytes(4, "big"), (9).to_bytes(4, "big"), 1)
    third = third[:2048] + third[2048:].replace((8).to_bytes(4, "big"), (9).to_bytes(4, "big"))

    assert outcome(volume(bytes(log))).replaced == [201]
    assert outcome(volume(bytes(log) + third)).replaced == [200, 201]


def test_an_empty_log_replaces_only_the_superblocks() -> None:
    superblock = bytearray(journal_superblock(0, 3))
    superblock[0x1C:0x20] = bytes(4)
    data = volume(superblock=bytes(superblock))
    result = outcome(data)

    assert result.replaced == []
    assert result.read(1024 + 0x60, 4) == (0x40).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (1024 + 0xE0, bytes(4), Reason.EXTERNAL),
        (1024 + 0x60, (0x4C).to_bytes(4, "little"), Reason.EXTERNAL),
        (1024 + 0x62, b"\x80", Reason.UNKNOWN_FEATURE),
        (1024 + 0x5C, bytes(4), Reason.DAMAGED),
        (1024 + 0x18, b"\x07", Reason.DAMAGED),
        (1024 + 0x58, b"\x81", Reason.DAMAGED),
        (1024 + 0x28, bytes(4), Reason.DAMAGED),
        (1024 + 0x05, b"\xff", Reason.DAMAGED),
        (2048 + 8, b"\xff\xff\xff", Reason.DAMAGED),
        (5 * 1024 + 7 * 128, bytes(2), Reason.DAMAGED),
        (5 * 1024 + 7 * 128 + 0x6C, b"\x02", Reason.TOO_LARGE),
        (5 * 1024 + 7 * 128 + 0x28, bytes(2), Reason.DAMAGED),
        (5 * 1024 + 7 * 128 + 0x2E, b"\x09", Reason.DAMAGED),
        (5 * 1024 + 7 * 128 + 0x34, b"\x01", Reason.DAMAGED),
        (5 * 1024 + 7 * 128 + 0x38, b"\x01\x80", Reason.DAMAGED),
        (5 * 1024 + 7 * 128 + 0x3C, b"\xff\xff", Reason.DAMAGED),
        (JOURNAL, b"X", Reason.DAMAGED),
        (JOURNAL + 15, b"\x01", Reason.DAMAGED),
        (JOURNAL + 0x10, b"\x01", Reason.DAMAGED),
        (JOURNAL + 0x14, b"\x01", Reason.DAMAGED),
        (JOURNAL + 0x1C, b"\x01", Reason.DAMAGED),
        (JOURNAL + 0x2B, b"\x23", Reason.FAST_COMMIT),
        (JOURNAL + 0x2B, b"\x43", Reason.UNKNOWN_FEATURE),
        (JOURNAL + 0x2F, b"\x01", Reason.UNKNOWN_FEATURE),
        (JOURNAL + 0x2B, b"\x1b", Reason.DAMAGED),
        (JOURNAL + 1024 + 12, b"\x01", Reason.DAMAGED),
        (JOURNAL + 5 * 1024 + 12, b"\x01", Reason.DAMAGED),
    ],
)
def test_a_journal_that_cannot_be_replayed_is_refused(
    at: int, value: bytes, reason: Reason
) -> None:
    data = volume()
    data[at : at + len(value)] = value

    assert refusal(data).reason == reason


def test_a_log_that_is_longer_than_its_journal_is_refused() -> None:
    tags = b"".join(struct.pack(">IHH", 200, 0, flags) for flags in (2,) * 9 + (10,))
    descriptor = (a_log()[:12] + tags).ljust(11 * 1024, b"\0")

    assert refusal(volume(descriptor * 93, journal_superblock(0, 1))).reason == Reason.DAMAGED


def test_the_checksum_of_version_1_equals_a_published_value() -> None:
    crc = BigEndianCrc32()
    crc.update(b"1234")
    crc.update(b"56789")

    assert crc.value == 0x0376E6E7  # CRC-32/MPEG-2


@pytest.mark.parametrize(
    ("features", "opened", "expected"),
    [
        ("^metadata_csum", "", "journal_incompat_revoke"),
        ("^metadata_csum", "-c", "journal_checksum"),
        ("metadata_csum", "-c -v 2", "journal_checksum_v2"),
        ("metadata_csum", "-c -v 3", "journal_checksum_v3"),
    ],
)
@pytest.mark.parametrize("width", ["64bit", "^64bit"])
def test_a_log_of_debugfs_is_replayed_like_by_e2fsck(
    tmp_path: Path, features: str, opened: str, expected: str, width: str
) -> None:
    image, content, script = (tmp_path / name for name in ("image", "content", "script"))
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    run("mke2fs", *f"-q -t ext4 -b 1024 -J size=1 -O {width},{features}".split(), image)
    content.write_bytes(MAGIC + bytes(1020) + b"second".ljust(1024) + b"third".ljust(1024))
    # With checksums version 1, the program writes a wrong checksum after a revocation.
    revoked = [] if opened == "-c" else ["jw -r 9001"]
    written = [f"jw -b 9000-9002 {content}", *revoked, f"jw -b 9100-9102 {content}"]
    script.write_text("\n".join([f"journal_open {opened}", *written, "journal_close"]))
    run("debugfs", "-w", "-f", script, image)
    header = run("dumpe2fs", "-h", image)
    result = replayed(Memory(image.read_bytes()))
    subprocess.run(["e2fsck", "-y", "-E", "journal_only", image], capture_output=True)

    assert expected in header
    assert ("journal_64bit" in header) == (width == "64bit")
    assert result is not None
    assert result.replaced == [9000, *([] if revoked else [9001]), 9002, 9100, 9101, 9102]
    assert result.read(8 * MIB, 8 * MIB) == image.read_bytes()[8 * MIB :]
