"""`python -m tools.vsim --inventory FILE`: serve until SIGINT or SIGTERM."""

import argparse
import json
import logging
import signal
import sys
from pathlib import Path

from tools.vsim.inventory import InventoryError, load_inventory
from tools.vsim.simulator import HOST, Simulator
from tools.vsim.soap.certificate import Certificate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.vsim", description=__doc__)
    parser.add_argument("--inventory", type=Path, required=True, help="TOML file, see docs/vsim.md")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="HTTPS port (default: a free one)")
    parser.add_argument("--nbd-port", type=int, default=0, help="NBD port (default: a free one)")
    parser.add_argument("--nbd-socket", type=Path, help="serve NBD on this Unix socket instead")
    parser.add_argument(
        "--vddk-port", type=int, default=0, help="for tools/vsim/vddk (default: free)"
    )
    parser.add_argument("--state", type=Path, help="directory for images, certificate, snapshots")
    parser.add_argument("--certificate", type=Path, help="PEM file to serve with; needs --key")
    parser.add_argument("--key", type=Path, help="PEM file of the certificate's key")
    parser.add_argument("--plain-http", action="store_true", help="no TLS")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    return parser


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if bool(options.certificate) != bool(options.key):
        parser.error("--certificate and --key go together")
    given = Certificate(options.certificate, options.key) if options.key else None
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING)
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread, so that all inherit it
    try:
        simulator = Simulator(
            load_inventory(options.inventory),
            options.state,
            host=options.host,
            port=options.port,
            nbd=options.nbd_socket or options.nbd_port,
            vddk_port=options.vddk_port,
            certificate=given,
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
