"""Block devices as sources: a device in use is captured only with --allow-changing."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceMismatch
from cbtfs.source.image import ImageSource
from tests.cli.run_cbtfs import runner
from tests.make_points import new_repository

pytestmark = pytest.mark.mounts

SIZE = 8 << 20


def _loop(image: Path, *options: str) -> str:
    command = ["losetup", "--find", "--show", *options, str(image)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    return path


@pytest.fixture
def device(image: Path) -> Iterator[str]:
    loop = _loop(image)
    yield loop
    subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture
def mounted(device: str, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "mnt"
    folder.mkdir()
    subprocess.run(["mount", device, folder], check=True)
    yield device
    subprocess.run(["umount", folder], check=True)


def test_a_device_that_is_mounted_is_not_confirmed(mounted: str) -> None:
    with closing(ImageSource(Path(mounted))) as source:
        assert source.size == SIZE
        with pytest.raises(SourceMismatch, match=r"is in use \(mounted"):
            source.confirm()


def test_a_read_only_device_may_be_mounted(image: Path, tmp_path: Path) -> None:
    device = _loop(image, "--read-only")
    folder = tmp_path / "mnt"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-o", "ro,noload", device, folder], check=True)
        with closing(ImageSource(Path(device))) as source:
            source.confirm()

            assert source.read(Extent(0, SIZE)) == image.read_bytes()
        subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_device_cannot_be_mounted_while_it_is_read(device: str, tmp_path: Path) -> None:
    with closing(ImageSource(Path(device))) as source:
        source.confirm()
        done = subprocess.run(["mount", device, tmp_path], check=False, capture_output=True)

    assert done.returncode != 0


def test_the_command_captures_a_mounted_device_only_with_allow_changing(
    mounted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(new_repository(tmp_path / "repository"), capsys)

    refused = run("ingest", "image", "--vm=v", "--disk=d", mounted)
    nothing = run("list", "--json").document
    allowed = run("ingest", "image", "--vm=v", "--disk=d", "--allow-changing", mounted)

    assert refused.code == 33
    assert "--allow-changing" in refused.err
    assert nothing == {"points": []}
    assert allowed.code == 0
