"""Every command works on a repository in a bucket."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.core.frame import Kind
from cbtfs.store.backend.bucket import Bucket, BucketUrl
from cbtfs.store.backend.objects import Objects
from cbtfs.store.backend.remote import state_directory
from cbtfs.store.backend.tier import Tier
from cbtfs.store.backend.tiered import Tiered
from cbtfs.store.packs import PackFolder
from tests.object_store import access_of, new_url
from tools.s3.proxy import Fault, Proxy, proxy
from tools.s3.servers import Server, rclone_server, seaweed

MIB = 1 << 20
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Host:
    """A host with a local state of its own, whose requests pass a proxy."""

    def __init__(self, folder: Path, url: str, server: Server, endpoint: str) -> None:
        self.url = url
        self.folder = folder
        folder.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            **server.environment,
            "AWS_ENDPOINT_URL": endpoint,
            "CBTFS_STATE": str(folder / "state"),
            "CBTFS_S3_RETRY": "3s",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cbtfs", "--repo", self.url, *arguments]

    def attempt(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command, which may fail."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = self.attempt(*arguments)
        assert done.returncode == code, done.stderr
        assert self.environment["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
        return done

    def document(self, *arguments: str) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.run(*arguments, "--json").stdout)
        return document

    def points(self) -> list[str]:
        lines = self.run("list", "--json").stdout
        found: list[str] = [point["id"] for point in json.loads(lines)["points"]]
        return found


@pytest.fixture
def front(s3_server: Server) -> Iterator[Proxy]:
    with proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def url() -> str:
    return str(new_url())


@pytest.fixture
def host(tmp_path: Path, url: str, s3_server: Server, front: Proxy) -> Host:
    host = Host(tmp_path / "host", url, s3_server, front.endpoint)
    host.run("init")
    return host


@pytest.fixture
def other(tmp_path: Path, url: str, s3_server: Server) -> Host:
    return Host(tmp_path / "other", url, s3_server, s3_server.endpoint)


def image_of(path: Path, seed: int, size: int = 8 * MIB) -> Path:
    chance = random.Random(seed)
    data = bytearray(size)
    data[MIB : 4 * MIB] = random.Random(1).randbytes(3 * MIB)
    data[5 * MIB : 5 * MIB + 200_000] = chance.randbytes(200_000)
    path.write_bytes(data)
    return path


def ingest(host: Host, image: Path, vm: str = "web", *arguments: str) -> None:
    host.run("ingest", "image", "--vm", vm, "--disk", f"root={image}", *arguments)


def restored(host: Host, name: str, target: Path) -> bytes:
    host.run("restore", name, "root", str(target))
    return target.read_bytes()


def test_the_main_job(host: Host, other: Host, tmp_path: Path) -> None:
    first, second = (image_of(tmp_path / f"{seed}.raw", seed) for seed in (1, 2))
    ingest(host, first)
    ingest(host, second)
    old, new = host.points()

    assert other.points() == [old, new]
    assert restored(other, old, tmp_path / "a") == first.read_bytes()
    other.run("forget", old)
    other.run("prune", "--max-unused", "0%")
    assert host.points() == [new]
    report = host.document("check", "--read-data")
    assert report["problems"] == []
    host.run("unforget", old, code=13)

    shutil.rmtree(host.folder / "state")
    assert host.points() == [new]
    assert restored(host, new, tmp_path / "b") == second.read_bytes()


def test_hosts_write_at_once_and_share_chunks(host: Host, other: Host, tmp_path: Path) -> None:
    images = [image_of(tmp_path / f"{seed}.raw", seed) for seed in range(4)]
    ingest(host, images[0], "vm0")
    with ThreadPoolExecutor() as pool:
        jobs: list[Future[object]] = [pool.submit(host.run, "prune")]
        jobs += [
            pool.submit(ingest, (host, other)[number % 2], images[number], f"vm{number}")
            for number in (1, 2, 3)
        ]
        for job in jobs:
            job.result()

    assert len(host.points()) == len(other.points()) == 4
    for number, image in enumerate(images):
        assert restored(other, f"vm{number}", tmp_path / "out") == image.read_bytes()
        (tmp_path / "out").unlink()
    assert other.document("check", "--read-data")["problems"] == []


def test_nodes_are_in_packs_of_their_own(
    host: Host, tmp_path: Path, url: str, s3_server: Server
) -> None:
    ingest(host, image_of(tmp_path / "1.raw", 1))
    bucket = Bucket(BucketUrl.parse(url), access_of(s3_server))
    packs = PackFolder(Tiered(Objects(bucket, "packs"), Tier(tmp_path / "tier")))

    kinds = [{frame.kind for frame in packs.frames(pack)[0]} for pack in packs.ids()]
    assert {kind for pack in kinds for kind in pack} == {Kind.CHUNK, Kind.NODE}
    assert [len(pack) for pack in kinds] == [1, 1]


def test_a_check_reads_the_bucket_and_not_the_copies(
    host: Host, tmp_path: Path, url: str, s3_server: Server
) -> None:
    ingest(host, image_of(tmp_path / "1.raw", 1))
    restored(host, "web", tmp_path / "out")
    bucket = Bucket(BucketUrl.parse(url), access_of(s3_server))
    damaged = max(packs_of(s3_server, url), key=lambda name: bucket.head(f"packs/{name}").size)
    data = bytearray(bucket.get(f"packs/{damaged}").data)
    data[MIB] ^= 1
    bucket.delete(f"packs/{damaged}")
    bucket.create(f"packs/{damaged}", bytes(data))

    done = host.run("check", "--read-data", code=21)
    assert damaged in done.stdout + done.stderr


def test_an_encrypted_repository_is_opened_by_its_key(
    other: Host, tmp_path: Path, url: str, s3_server: Server
) -> None:
    one = Host(tmp_path / "one", url, s3_server, s3_server.endpoint)
    key = tmp_path / "key"
    one.run("init", "--encrypt", "--key-file", str(key), "--no-recovery")
    one.environment["CBTFS_KEY_FILE"] = str(key)
    image = image_of(tmp_path / "1.raw", 1)
    ingest(one, image, "secret-name")
    bucket = Bucket(BucketUrl.parse(url), access_of(s3_server))
    for folder in ("packs", "points", "states"):
        for name in bucket.names_after(folder, ""):
            assert b"secret-name" not in bucket.get(f"{folder}/{name}").data

    other.run("list", code=14)
    other.run("check")
    other.environment["CBTFS_KEY_FILE"] = str(key)
    assert restored(other, "secret-name", tmp_path / "out") == image.read_bytes()
    other.run("forget", "secret-name", "--keep-last", "1", "--prune")
    assert other.document("check", "--read-data")["problems"] == []
    other.run("key", "add", "--new-key-file", str(tmp_path / "second"), code=2)


def test_an_address_is_used_once(
    host: Host, other: Host, tmp_path: Path, url: str, s3_server: Server
) -> None:
    other.run("init", code=2)
    host.run("init", code=2)

    key = tmp_path / "key"
    done = other.run("init", "--encrypt", "--key-file", str(key), "--no-recovery", code=2)
    assert done.stderr == f"cbtfs: {url} is already a repository\n"
    assert not key.exists()
    bucket = Bucket(BucketUrl.parse(url), access_of(s3_server))
    assert [*bucket.names_after("keys", "")] == []


def test_an_init_is_repeated_after_a_crash(tmp_path: Path, url: str, s3_server: Server) -> None:
    host = Host(tmp_path / "h", url, s3_server, s3_server.endpoint)
    slots = state_directory(BucketUrl.parse(url), host.environment) / "keys"
    slots.mkdir(parents=True)
    (slots / "epoch-1").write_bytes(b"of the init before")
    words = ("init", "--encrypt", "--key-file", str(tmp_path / "key"), "--no-recovery")

    host.run(*words)
    host.run("--key-file", str(tmp_path / "key"), "list")

    host.url = f"{url}/2"
    bucket = Bucket(BucketUrl.parse(host.url), access_of(s3_server))
    bucket.create("keys/epoch-1", b"of another host")
    assert "an init that did not end" in host.run(*words, code=2).stderr


def test_nothing_is_at_an_address(tmp_path: Path, s3_server: Server) -> None:
    host = Host(tmp_path / "h", str(new_url()), s3_server, s3_server.endpoint)
    done = host.run("list", code=10)

    assert done.stderr == (
        f"cbtfs: no repository at {host.url}: check the address, or create one with init\n"
    )


def test_an_address_cannot_be_reached(tmp_path: Path, s3_server: Server) -> None:
    host = Host(tmp_path / "h", "s3://absent/x", s3_server, s3_server.endpoint)
    assert host.run("list", code=10).stderr == (
        "cbtfs: no repository at s3://absent/x: there is no such bucket\n"
    )
    key = tmp_path / "key"
    words = ("init", "--encrypt", "--key-file", str(key), "--no-recovery")
    assert host.run(*words, code=2).stderr == (
        "cbtfs: there is no bucket absent: create it first\n"
    )
    assert "there is no bucket absent" in host.run("init", code=2).stderr

    host.environment |= {"AWS_SECRET_ACCESS_KEY": "wr0ng"}
    assert "check the credentials" in host.run("list", code=31).stderr
    host.environment |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "CBTFS_S3_RETRY": "0.1s"}
    for command in (("list",), words):
        assert host.run(*command, code=1).stderr.splitlines()[-1] == (
            "cbtfs: cannot open s3://absent/x: cannot read repository.json: the server does not "
            "answer: cannot connect"
        )
    assert not key.exists()


def test_each_command_says_in_one_line_that_the_server_is_away(host: Host, tmp_path: Path) -> None:
    image = image_of(tmp_path / "1.raw", 1)
    ingest(host, image)
    (point,) = host.points()
    host.environment |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "CBTFS_S3_RETRY": "0.1s"}

    assert host.points() == [point]
    for words in (
        *(("show", "web"), ("extents", "web", "root"), ("stats",), ("check",), ("prune",)),
        *(("forget", "web"), ("protect", "web"), ("restore", "web", "root", str(tmp_path / "out"))),
        ("ingest", "image", "--vm", "web", "--disk", f"root={image}"),
        ("repair",),
    ):
        done = host.attempt(*words)
        assert done.returncode in (0, 1), (words, done.stderr)
        assert "Traceback" not in done.stderr, (words, done.stderr)


def test_a_server_without_conditions_is_refused(tmp_path: Path) -> None:
    with rclone_server(tmp_path / "rclone") as server:
        host = Host(tmp_path / "h", str(new_url()), server, server.endpoint)
        done = host.run("init", code=2)

    assert f"the server of {host.url} replaces objects that exist" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bucket_that_was_emptied_is_refused(
    host: Host, other: Host, tmp_path: Path, s3_server: Server
) -> None:
    image = image_of(tmp_path / "1.raw", 1)
    ingest(host, image)
    host.url = other.url = str(new_url())
    other.run("init")
    (state,) = (host.folder / "state").iterdir()
    (other_state,) = (other.folder / "state").iterdir()
    state.rename(state.with_name(other_state.name))
    (state.with_name(other_state.name) / "remote.json").write_text(json.dumps({"url": host.url}))

    done = host.run("prune", code=21)
    assert "has another repository, but its local state" in done.stderr
    assert other.points() == []


@contextmanager
def mounted(host: Host, target: Path) -> Iterator[Path]:
    target.mkdir()
    host.run("mount", str(target), "--log-file", str(target.parent / "mount.log"))
    try:
        yield target
    finally:
        host.run("umount", str(target))


@pytest.mark.mounts
def test_a_mount_survives_an_outage(host: Host, front: Proxy, tmp_path: Path) -> None:
    image, content = tmp_path / "1.raw", random.Random(1).randbytes(40 * MIB)
    image.write_bytes(content)
    ingest(host, image)
    shutil.rmtree(host.folder / "state")
    with mounted(host, tmp_path / "m") as mount:
        fd = os.open(mount / "web" / "latest" / "root.raw", os.O_RDONLY)
        try:
            assert os.pread(fd, 4096, MIB) == content[MIB : MIB + 4096]
            front.script.every, front.script.faults = 1, (Fault.DROPPED,)
            for _ in range(3):
                with pytest.raises(OSError, match="Input/output error"):
                    os.pread(fd, 4096, 30 * MIB)
            assert os.pread(fd, 4096, MIB) == content[MIB : MIB + 4096]
            with (mount / "web" / "latest" / "root.raw").open("rb", buffering=0) as again:
                assert os.pread(again.fileno(), 4096, MIB) == content[MIB : MIB + 4096]
            front.script.every = 0
            assert os.pread(fd, 4096, 30 * MIB) == content[30 * MIB : 30 * MIB + 4096]
        finally:
            os.close(fd)
        assert (mount / "web" / "latest" / "root.raw").read_bytes() == content

    log = (tmp_path / "mount.log").read_text()
    lines = [line for line in log.splitlines() if "answer" in line]
    assert len(lines) in (2, 4), log  # Two for each worker that has noticed.


@pytest.mark.mounts
def test_a_private_mount_has_the_credentials(host: Host, tmp_path: Path) -> None:
    image = image_of(tmp_path / "1.raw", 1)
    ingest(host, image)
    (state,) = (host.folder / "state").iterdir()
    script = (
        "import sys\nfrom pathlib import Path\nfrom cbtfs.mount.private import private_mount\n"
        "with private_mount(Path(sys.argv[1])) as mount:\n"
        "    disk = mount.mountpoint / 'web' / 'latest' / 'root.raw'\n"
        "    sys.stdout.buffer.write(disk.read_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(state)],
        env=host.environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        timeout=120,
    )

    assert done.stdout == image.read_bytes(), done.stderr


SEEDS = int(os.environ.get("CBTFS_BUCKET_SEEDS", "1"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_faults_of_the_server_lose_no_point(
    host: Host, other: Host, front: Proxy, tmp_path: Path, seed: int
) -> None:
    """Commands may fail. Acknowledged points stay, and every listed point is readable."""
    front.script.seed, front.script.every, front.script.slow = seed, 8, 0.05
    contents: dict[str, bytes] = {}
    for number in range(4):
        image = image_of(tmp_path / f"{number}.raw", seed * 100 + number)
        arguments = ("--vm", f"vm{number % 2}", "--disk", f"root={image}", "--json")
        done = host.attempt("ingest", "image", *arguments)
        if done.returncode == 0:
            contents[json.loads(done.stdout)["point"]] = image.read_bytes()
        if number == 2:
            host.attempt("forget", "vm0", "--keep-last", "1", "--json")
            oldest = (tmp_path / "0.raw").read_bytes()
            for point in {*contents} - {*other.points()}:
                assert contents.pop(point) == oldest
            host.attempt("prune", "--max-unused", "0%")
    front.script.every = 0

    assert contents
    assert {*contents} <= {*other.points()}
    host.run("prune", "--max-unused", "0%")
    assert other.document("check", "--read-data")["problems"] == []
    for point, content in contents.items():
        assert restored(other, point, tmp_path / "out") == content
        (tmp_path / "out").unlink()
    assert front.faults


def test_a_server_killed_in_puts_loses_no_point(tmp_path: Path) -> None:
    image = tmp_path / "1.raw"
    image.write_bytes(random.Random(1).randbytes(70 * MIB))
    url = str(new_url())
    with seaweed(tmp_path / "server") as server:
        host = Host(tmp_path / "host", url, server, server.endpoint)
        host.run("init")
        first = image_of(tmp_path / "0.raw", 0)
        ingest(host, first, "kept")
        arguments = ("ingest", "image", "--vm", "web", "--disk", f"root={image}")
        bucket = Bucket(BucketUrl.parse(url), access_of(server))
        environment = {**host.environment, "CBTFS_S3_RETRY": "0.5s"}
        with subprocess.Popen(host.command(*arguments), env=environment) as writer:
            # Until the first pack of the second point exists.
            while len([*bucket.names_after("packs", "")]) < 3:
                with pytest.raises(subprocess.TimeoutExpired):
                    writer.wait(0.02)
            os.killpg(server.process.pid, signal.SIGKILL)
            assert writer.wait() == 1
    with seaweed(tmp_path / "server") as server:
        # For some seconds, until its volumes are known, the server answers listings with errors.
        host.environment |= {**server.environment, "CBTFS_S3_RETRY": "30s"}

        assert restored(host, "kept", tmp_path / "out") == first.read_bytes()
        ingest(host, image)
        assert restored(host, "web", tmp_path / "web") == image.read_bytes()
        assert host.document("check", "--read-data")["problems"] == []


def packs_of(server: Server, url: str) -> list[str]:
    bucket = Bucket(BucketUrl.parse(url), access_of(server))
    return [*bucket.names_after("packs", "")]
