"""The requests in flight of a host stay within its window, and its disks have equal shares."""

import threading
from concurrent.futures import ThreadPoolExecutor

from cbtfs.source.transport.nfc.window import HostWindows


def test_requests_of_all_disks_of_a_host_stay_within_its_window() -> None:
    window = HostWindows(8).of("esx1")
    disks = [window.disk() for _ in range(3)]
    lock, held, most = threading.Lock(), 0, 0

    def work(number: int) -> None:
        nonlocal held, most
        disk = disks[number % 3]
        disk.acquire(8)
        with lock:
            held += 1
            most = max(most, held)
        with lock:
            held -= 1
        disk.release()

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(3000)))

    assert 1 <= most <= 8
    assert [disk.held for disk in disks] == [0, 0, 0]


def test_a_disk_that_comes_later_gets_its_share() -> None:
    window = HostWindows(8).of("esx1")
    first, second = window.disk(), window.disk()
    for _ in range(8):
        first.acquire()
    granted = threading.Event()

    def take() -> None:
        for _ in range(4):
            second.acquire()
        granted.set()

    def want_more() -> None:
        first.acquire()

    threads = [threading.Thread(target=work, daemon=True) for work in (take, want_more)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        first.release()

    assert granted.wait(10)
    assert (first.held, second.held) == (4, 4)
    first.release()
    threads[1].join(10)
    assert first.held == 4
