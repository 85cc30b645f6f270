"""Serve a simulated vSphere until SIGINT or SIGTERM: `python -m tools.vsim --inventory FILE`."""

import argparse
import json
import logging
import signal
import sys
from pathlib import Path

from tools.vsim.inventory import InventoryError, load_inventory
from tools.vsim.simulator import HOST, Listen, Simulator
from tools.vsim.soap.certificate import Certificate

DESCRIPTION = "Serve a simulated vSphere until SIGINT or SIGTERM."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.vsim", description=DESCRIPTION)
    parser.add_argument(
        "--inventory", type=Path, required=True, help="inventory (TOML; see docs/vsim.md)"
    )
    parser.add_argument(
        "--host", default=HOST, help="listen on this address (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=0, help="HTTPS port (default: a free port)")
    parser.add_argument("--nbd-port", type=int, default=0, help="NBD port (default: a free port)")
    parser.add_argument(
        "--nbd-socket", type=Path, help="serve NBD on this Unix socket, not on a port"
    )
    parser.add_argument(
        "--vddk-port", type=int, default=0, help="port for the library of tools/vsim/vddk"
    )
    parser.add_argument("--nfc-port", type=int, default=0, help="NFC port (default: a free port)")
    parser.add_argument("--state", type=Path, help="keep images and certificate in this directory")
    parser.add_argument("--certificate", type=Path, help="server certificate (PEM); needs --key")
    parser.add_argument("--key", type=Path, help="key of the certificate (PEM)")
    parser.add_argument("--plain-http", action="store_true", help="serve HTTP without TLS")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    return parser


def main() -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options = parser.parse_args()
    if bool(options.certificate) != bool(options.key):
        parser.error("--certificate requires --key, and --key requires --certificate")
    certificate = Certificate(options.certificate, options.key) if options.key else None
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING)
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # every later thread inherits the mask
    nbd = options.nbd_socket or options.nbd_port
    listen = Listen(options.host, options.port, nbd, options.vddk_port, options.nfc_port)
    try:
        simulator = Simulator(
            load_inventory(options.inventory),
            options.state,
            listen=listen,
            certificate=certificate,
            tls=not options.plain_http,
        )
    except (InventoryError, OSError) as error:
        print(f"vsim: {error}", file=sys.stderr)
        return 2
    with simulator as sim:
        ready = {
            "url": sim.url,
            "host": sim.host,
            "port": sim.port,
            "thumbprint": sim.certificate.thumbprint,
            "thumbprint_sha1": sim.certificate.thumbprint_sha1,
            "certificate": str(sim.certificate.certificate),
            "user": sim.user.name,
            "password": sim.user.password,
            "nbd": sim.nbd_uri,
            "vddk_port": sim.vddk_port,
            "nfc_port": sim.nfc_port,
            "token": sim.token,
            "state": str(sim.state),
        }
        line = json.dumps(ready)
        note = sim.state / "ready.json"
        note.touch(mode=0o600)
        note.write_text(line)
        print(line, flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
