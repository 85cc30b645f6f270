"""The library of tools/vsim/vddk: exact bytes, VDDK's rules for callers, injected faults."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.fault import Fault
from tools.vsim.vddk.build import build, point_at

PRELUDE = """
import ctypes, sys
from cbtfs.source.transport.vddk import abi
lib = ctypes.CDLL(sys.argv[1] + "/lib64/libvixDiskLib.so")
for name, (result, arguments) in {**abi.SIGNATURES, **abi.OPTIONAL}.items():
    function = getattr(lib, "VixDiskLib_" + name)
    function.restype, function.argtypes = result, arguments
log = abi.LOG_FUNCTION(lambda template, arguments: None)
def init(log=log):
    return lib.VixDiskLib_InitEx(8, 0, log, log, log, sys.argv[1].encode(), None)
def params(vm=b"moref=vm-101", password=b"vsim"):
    made = lib.VixDiskLib_AllocateConnectParams()
    p = made.contents
    p.vmxSpec, p.serverName, p.port = vm, sys.argv[2].encode(), int(sys.argv[3])
    p.thumbPrint, p.credType = sys.argv[4].encode(), 1
    p.creds.uid.userName, p.creds.uid.password = b"administrator@vsphere.local", password
    return made
def connect(p, snapshot=sys.argv[5].encode()):
    connection = ctypes.c_void_p()
    error = lib.VixDiskLib_ConnectEx(p, b"\\1", snapshot, None, ctypes.byref(connection))
    return error, connection
def disk(connection, path=b"[datastore1] web1/web1.vmdk", flags=4):
    handle = ctypes.c_void_p()
    return lib.VixDiskLib_Open(connection, path, flags, ctypes.byref(handle)), handle
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vddk")
    build(folder)
    return folder


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(
        Inventory(machines=(MachineEntry("web1", disks=(DiskEntry(size=1 << 20),)),))
    ) as made:
        made.do.write("web1", 2000, 0, b"before" * 1000)
        made.do.snapshot("web1", "frozen")
        made.do.write("web1", 2000, 0, b"after!" * 1000)
        yield made


def run(library: Path, sim: Simulator, program: str) -> list[str]:
    """Run a Python program that loads the library; return the lines that it prints."""
    point_at(library, sim.host, sim.vddk_port)
    snapshot = sim.do.vms()[0]["snapshots"][0]["id"]
    place = (sim.host, str(sim.port), sim.certificate.thumbprint_sha1, snapshot)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(library), *place],
        env={"LD_LIBRARY_PATH": str(library / "lib64")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_reads_return_the_bytes_of_the_snapshot(library: Path, sim: Simulator) -> None:
    program = """
init()
error, connection = connect(params())
error, handle = disk(connection)
buffer = ctypes.create_string_buffer(512)
lib.VixDiskLib_Read(handle, 0, 1, buffer)
print(buffer.raw[:6].decode(), lib.VixDiskLib_GetTransportMode(handle).decode())
print(lib.VixDiskLib_Close(handle), lib.VixDiskLib_Disconnect(connection))
"""

    assert run(library, sim, program) == ["before", "nbdssl", "0", "0"]


def test_calls_against_the_rules_are_refused(library: Path, sim: Simulator) -> None:
    program = """
import threading
print(init(abi.LOG_FUNCTION()), init(), init())
p = params()
print(lib.VixDiskLib_PrepareForAccess(p, b"x" * 51), lib.VixDiskLib_Cleanup(p, None, None))
error, connection = connect(p)
print(disk(connection, flags=0)[0])
other = []
thread = threading.Thread(target=lambda: other.append(disk(connection)[0]))
thread.start(); thread.join()
print(*other)
error, handle = disk(connection)
blocks = ctypes.POINTER(abi.BlockList)()
for start, count, chunk in ((0, 128, 64), (0, 200, 128), (2048, 128, 128), (0, 1 << 40, 128)):
    print(lib.VixDiskLib_QueryAllocatedBlocks(handle, start, count, chunk, ctypes.byref(blocks)))
print(lib.VixDiskLib_QueryAllocatedBlocks(handle, 0, 2048, 128, ctypes.byref(blocks)))
print(blocks.contents.numBlocks)
print(lib.VixDiskLib_Read(handle, 2047, 2, ctypes.create_string_buffer(1024)))
"""
    printed = run(library, sim, program)

    assert printed[:3] == ["3", "0", "3"]
    assert printed[3:7] == ["3", "3", "3", "3"]
    assert printed[7:13] == ["3", "3", "3", "3", "0", "1"]
    assert printed[13] == "16007"


def test_a_handle_has_one_reader_at_a_time(library: Path, sim: Simulator) -> None:
    sim.do.on_vddk("VixDiskLib_Read", action="delay", seconds=1.0)
    program = """
init()
error, connection = connect(params())
error, handle = disk(connection)
done = abi.COMPLETION(lambda data, error: None)
first, second = ctypes.create_string_buffer(512), ctypes.create_string_buffer(512)
print(lib.VixDiskLib_ReadAsync(handle, 0, 1, first, done, None))
print(lib.VixDiskLib_Read(handle, 0, 1, second), lib.VixDiskLib_Close(handle))
print(lib.VixDiskLib_Wait(handle), first.raw[:6].decode(), lib.VixDiskLib_Close(handle))
"""

    assert run(library, sim, program) == ["25000", "5", "5", "0", "before", "0"]


def test_error_codes_are_those_of_vddk(library: Path, sim: Simulator) -> None:
    program = """
init()
print(connect(params(password=b"wrong"))[0], connect(params(vm=b"moref=vm-7"))[0])
error, connection = connect(params())
print(disk(connection, b"[datastore1] web1/none.vmdk")[0])
p = params()
p.contents.thumbPrint = b"AA:BB"
error, connection = connect(p)
print(error, disk(connection)[0])
"""

    assert run(library, sim, program) == ["3014", "3", "4", "0", "1"]


def test_a_prepared_vm_cannot_move_until_the_same_identity_ends_access(
    library: Path, sim: Simulator
) -> None:
    program = """
init()
print(lib.VixDiskLib_PrepareForAccess(params(), b"mine"))
print(lib.VixDiskLib_PrepareForAccess(params(), b"yours"))
print(lib.VixDiskLib_EndAccess(params(), b"yours"))
"""
    assert run(library, sim, program) == ["0", "1", "1"]
    assert sim.do.vms()[0]["relocation_disabled_by"] == ["mine"]
    with pytest.raises(Fault, match="MethodDisabled"):
        sim.do.relocate("web1", "datastore1")
    ended = "init(); print(lib.VixDiskLib_EndAccess(params(), b'mine'))"
    assert run(library, sim, ended) == ["0"]
    assert sim.do.vms()[0]["relocation_disabled_by"] == []
    sim.do.relocate("web1", "datastore1")


def test_rules_count_calls_of_the_library(library: Path, sim: Simulator) -> None:
    sim.do.on_vddk("VixDiskLib_Open", code=14014, at=2, times=2)
    program = """
init()
error, connection = connect(params())
print(*(disk(connection)[0] for _ in range(4)))
"""

    assert run(library, sim, program) == ["0", "14014", "14014", "0"]
    assert sim.do.vddk_calls(clear=True).count("VixDiskLib_Open") == 4
    assert sim.do.vddk_calls() == []
