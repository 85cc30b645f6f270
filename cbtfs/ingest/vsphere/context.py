"""The context of an ingest: everything that the captures of several VMs share."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from cbtfs.ingest.checkpoints import CHECKPOINT_SECONDS
from cbtfs.ingest.inputs import OnDisk, VmInput, no_progress
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.source.transport.base import Transport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter


@dataclass(frozen=True, slots=True)
class IngestContext:
    """Everything that the captures of several VMs share; safe to use from several threads."""

    repository: Repository
    objects: ObjectWriter
    session: Session
    transports: Sequence[Transport]
    options: IngestOptions = field(default_factory=IngestOptions)
    stop: threading.Event = field(default_factory=threading.Event)
    on_disk: OnDisk = no_progress
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Interval between checkpoints."""

    def input_of(self, vm: ListedVm) -> VmInput:
        """Return *vm* as the repository identifies it."""
        return VmInput(vm.name, self.session.server_id, vm.identity)
