"""NBD over TLS: only a server with a verified certificate is read."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.source.export import NbdSource
from tests.certificates import make_authority
from tests.cli.run_cbtfs import Run

CONTENT = bytes(range(256)) * 256
INGEST = ("ingest", "image", "--vm=vm", "--disk=disk", "--timeout=5")


@contextmanager
def _serving(image: Path, *options: str) -> Iterator[int]:
    """Run qemu-nbd on a free port; return the port."""
    pid = image.with_suffix(".pid")
    command = ["qemu-nbd", "--read-only", "--persistent", "--fork", f"--pid-file={pid}"]
    for is_last in (False, False, False, True):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        where = ["--bind=127.0.0.1", f"--port={port}", "--format=raw", "--shared=8"]
        done = subprocess.run([*command, *where, *options, str(image)], check=is_last)
        if done.returncode == 0:
            break  # else another process has taken the port
    try:
        yield port
    finally:
        subprocess.run(["kill", pid.read_text().strip()], check=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("tls") / "pki")


@pytest.fixture(scope="module")
def port(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    image = tmp_path_factory.mktemp("disk") / "disk.raw"
    image.write_bytes(CONTENT)
    credentials = f"tls-creds-x509,id=tls,endpoint=server,verify-peer=off,dir={authority}"
    with _serving(image, f"--object={credentials}", "--tls-creds=tls") as listening:
        yield listening


def test_a_server_with_a_certificate_of_the_authority_is_read(port: int, authority: Path) -> None:
    with closing(NbdSource(f"nbds://localhost:{port}/?tls-certificates={authority}")) as source:
        assert source.read(Extent(0, len(CONTENT))) == CONTENT


def test_a_server_of_another_name_is_refused(port: int, authority: Path, run: Run) -> None:
    done = run(*INGEST, f"nbds://127.0.0.1:{port}/?tls-certificates={authority}")

    assert done.code == 30


def test_a_server_of_another_authority_is_refused(port: int, tmp_path: Path, run: Run) -> None:
    other = make_authority(tmp_path / "other")

    done = run(*INGEST, f"nbds://localhost:{port}/?tls-certificates={other}")

    assert done.code == 30


@pytest.fixture
def uri_fields(port: int, authority: Path, tmp_path: Path) -> dict[str, object]:
    return {"port": port, "empty": tmp_path, "authority": authority}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("nbds://localhost:{port}/", "needs a trusted authority"),
        ("nbds://localhost:{port}/?tls-certificates={empty}", "needs a trusted authority"),
        ("nbds+unix:///?socket={empty}/none&tls-certificates={authority}", "cannot be verified"),
        ("nbds+unix:///?socket={empty}/none", "cannot be verified"),
        ("nbds://[", "is not a URI"),
    ],
)
def test_a_uri_without_verification_is_a_usage_error(
    uri_fields: dict[str, object], run: Run, template: str, words: str
) -> None:
    done = run(*INGEST, template.format_map(uri_fields))

    assert done.code == 2
    assert words in done.err


def test_a_server_that_requires_tls_is_not_read_without_tls(port: int, run: Run) -> None:
    done = run(*INGEST, f"nbd://localhost:{port}/")

    assert done.code == 30


def test_nbds_never_falls_back_to_a_server_without_tls(
    authority: Path, tmp_path: Path, run: Run
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(CONTENT)

    with _serving(image) as plain:
        done = run(*INGEST, f"nbds://localhost:{plain}/?tls-certificates={authority}")

    assert done.code == 30
