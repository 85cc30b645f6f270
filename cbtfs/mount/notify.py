"""Notifications to systemd: sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Send *state*, for example READY=1, to the service manager if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    address = b"\0" + os.fsencode(path[1:]) if path[0] == "@" else os.fsencode(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), address)
