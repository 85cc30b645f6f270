"""The small files of a VM in a restore point: config.json, .vmx, .nvram, disk descriptors."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cbtfs.ingest.inputs import DiskInput
from cbtfs.source.content import ContentSource
from cbtfs.source.vsphere.inventory.document import document_of
from cbtfs.source.vsphere.inventory.vm_files import VmFile

CONFIG: Final = "config.json"


def encode_config(config: Any) -> bytes:
    """Return the configuration of a snapshot as JSON, without possible secrets."""
    return (json.dumps(document_of(config), indent=1, ensure_ascii=True) + "\n").encode()


def inputs_of(config: Any, fetched: Iterable[VmFile], labels: Iterable[str]) -> Iterator[DiskInput]:
    """Yield the small files as inputs; their labels differ from *labels*, those of the disks."""
    taken = set(labels)
    files = [VmFile(CONFIG, "file:config", encode_config(config)), *fetched]
    for file in files:
        name = file.name
        while name in taken:
            name += "~"
        taken.add(name)
        yield DiskInput(name, ContentSource(file.content), file.identity, "file")
