"""`cbtfs ingest`: a group with one command for each kind of source."""

import typer

from cbtfs.cli.commands import ingest_image, ingest_vsphere
from cbtfs.cli.lazy_commands import SuggestingGroup
from cbtfs.cli.options.arguments import example

group = typer.Typer(cls=SuggestingGroup, rich_markup_mode=None)
ingest_image.add_to(group)
ingest_vsphere.add_to(group)


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="ingest")


@group.callback(epilog=example("cbtfs ingest image --vm web1 --disk root web1.raw"))
def _ingest() -> None:
    """Take restore points of VMs or disk images.

    A restore point has the content of all disks of a VM at one moment. It is committed as a whole
    or not at all; an interrupted run leaves no partial point.
    """
