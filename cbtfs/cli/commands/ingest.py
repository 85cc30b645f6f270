"""`cbtfs ingest`: the group of commands that take restore points, one for each kind of source."""

import typer

from cbtfs.cli.commands import ingest_image, ingest_vsphere

group = typer.Typer(help="Take a restore point.", rich_markup_mode=None)
ingest_image.add_to(group)
ingest_vsphere.add_to(group)


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="ingest")


@group.callback()
def _ingest() -> None:
    """Take a restore point: capture the disks of a VM as they are now."""
