"""Ingest one VM in a separate process, which a test kills.

Arguments: host, port, CA file, NBD URI, repository. Packs are small, and every leaf is a
checkpoint.
"""

import os
import sys
from pathlib import Path
from typing import Final
from unittest.mock import patch

from cbtfs.ingest import capture
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.secret import Secret
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import verifying
from cbtfs.source.vsphere.inventory.vms import list_vms
from cbtfs.store.repository import writing

PACK_BYTES: Final = 200_000


def main(host: str, port: str, ca: str, nbd: str, path: str) -> None:
    tls = verifying(Path(ca))
    credentials = Credentials(os.environ["USERNAME"], Secret(os.environ["PASSWORD"]))
    address = Address(host, int(port))
    with (
        writing(Path(path)) as repository,
        Session(address, tls, credentials) as session,
    ):
        objects = repository.object_writer(PACK_BYTES)
        transports = [NbdTransport(nbd + "{vm}/{snapshot}/{key}")]
        context = IngestContext(
            repository,
            objects,
            session,
            transports,
            IngestOptions(want="full"),
            checkpoint_seconds=0.0,
        )
        (vm,) = list_vms(session)
        with patch.object(capture, "UNIT_BYTES", 64 * repository.settings.block_size):
            ingest_machine(context, vm)
        objects.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
