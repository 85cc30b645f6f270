"""`cbtfs init`."""

from pathlib import Path
from typing import Annotated

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.context import located, repository_path
from cbtfs.cli.options.new_keys import KeyOptions, document_of
from cbtfs.cli.report.output import emit, report
from cbtfs.errors import UsageError


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs --repo /srv/backup init",
            "cbtfs --repo DIR init --block-size 32768",
            "cbtfs --repo DIR init --shared-writers",
            "cbtfs --repo s3://BUCKET/PREFIX init",
            "cbtfs --repo DIR init --encrypt --key-file /root/backup.key --recovery-sheet sheet",
        )
    )(init)


def init(
    context: typer.Context,
    block_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default="65536",
            help="Block size of new disks in bytes: a power of two from 4096 to 1048576.",
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="1", help="Default zstd compression level, 1 to 19."
        ),
    ] = None,
    related: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Repository with which 'cbtfs copy' exchanges points: use its block size and "
            "level.",
        ),
    ] = None,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Encrypt the repository. --key-file names a key file, which is created unless it "
            "exists, and --passphrase-file a passphrase; without both, it is asked for.",
        ),
    ] = False,
    recovery_sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Write a recovery key to a new file, to be printed and kept elsewhere.",
        ),
    ] = None,
    no_recovery: Annotated[
        bool,
        typer.Option(
            "--no-recovery",
            help="Make no recovery key: if the other keys are lost, so is all data.",
        ),
    ] = False,
    age_recipient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPIENT",
            show_default=False,
            help="age recipient that can open the repository; may be repeated.",
        ),
    ] = None,
    kdf_memory: Annotated[
        int,
        typer.Option(metavar="MIB", help="Memory that the passphrase takes to try, 8 to 1024."),
    ] = 256,
    shared_writers: Annotated[
        bool,
        typer.Option(
            "--shared-writers",
            help="Allow several programs to write at once; prune runs at the same time. Versions "
            "of cbtfs before this option refuse the repository.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Create a repository.

    The directory must be empty or absent. Its file system must be local: catalog and locks do not
    work on network file systems. Equal blocks have equal digests in related repositories, so
    'cbtfs copy' moves only those that the other repository lacks.

    With --repo s3://BUCKET/PREFIX, the repository is in a bucket of an S3 server, which is tested
    first; a server that ignores conditions of requests is refused. The repository has shared
    writers. Endpoint, region and credentials are those of AWS's tools. Catalog and copies of what
    was read are in a local directory of each host, and can be rebuilt.

    With --encrypt, packs, manifests, states and pins are encrypted and authenticated. Catalog,
    locks and logs stay readable in the local directory. An existing repository is encrypted by
    'cbtfs copy' into a new one. --recovery-sheet or --no-recovery is required.
    """
    from cbtfs.core.settings import DEFAULT_BLOCK_BYTES
    from cbtfs.store.backend.remote import remote_of
    from cbtfs.store.codec import DEFAULT_LEVEL
    from cbtfs.store.repository import create_repository
    from cbtfs.store.settings import load_settings, new_settings

    path = repository_path(context, is_new=True)
    url = remote_of(path)
    options = KeyOptions(context, recovery_sheet, no_recovery, age_recipient or [], kdf_memory)
    options.require_consistent(encrypt)
    if related is not None:
        related = located(related)
        other = load_settings(related)
        if block_size not in (None, other.block_size):
            raise UsageError(
                f"--block-size {block_size} contradicts --related: {related} has blocks of "
                f"{other.block_size} bytes"
            )
        block_size = other.block_size
        level = other.level if level is None else level
        if other.is_encrypted != encrypt:
            kind = "is encrypted: use --encrypt" if other.is_encrypted else "is not encrypted"
            raise UsageError(f"--related {related} {kind}; equal blocks need equal digests")
    try:
        settings = new_settings(
            DEFAULT_BLOCK_BYTES if block_size is None else block_size,
            DEFAULT_LEVEL if level is None else level,
            is_encrypted=encrypt,
            is_shared=shared_writers,
            is_remote=url is not None,
        )
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    keys = options.make(path, settings.id, related) if encrypt else None
    create_repository(path, settings, keys)
    if json:
        emit(
            {
                "repository": str(path.absolute() if url is None else url),
                "id": settings.id,
                "created": settings.created,
                "block_size": settings.block_size,
                "level": settings.level,
                "related": None if related is None else str(related.absolute()),
                "encrypted": encrypt,
                "shared_writers": settings.is_shared,
                "key_slots": [document_of(slot) for slot in keys.slots] if keys else [],
            }
        )
    else:
        kind = f"{', encrypted' if encrypt else ''}{', shared writers' if shared_writers else ''}"
        report([f"repository {settings.id} created at {url or path}{kind}"])
