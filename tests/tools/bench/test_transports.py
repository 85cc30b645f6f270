"""The proxy that counts round trips."""

import socket
import threading
from contextlib import closing

from tools.bench.transports import RoundTrips


def answer(listener: socket.socket) -> None:
    """Answer each byte by two bytes, on one connection."""
    client, _ = listener.accept()
    with client:
        while client.recv(1):
            client.sendall(b"ab")


def test_a_client_that_waits_three_times_makes_three_round_trips() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        with closing(RoundTrips(listener.getsockname()[1])) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                for _ in range(3):
                    client.sendall(b"x")
                    received = b""
                    while len(received) < 2:
                        received += client.recv(2)

            assert proxy.count == 3
