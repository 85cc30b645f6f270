"""`cbtfs key`: the keys of an encrypted repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.lazy_commands import SuggestingGroup
from cbtfs.cli.options.arguments import Json, LockWait, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.new_keys import ask_new_passphrase, document_of
from cbtfs.cli.report.output import emit, print_lines, report
from cbtfs.core.names import printable
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.core.keyslot import Slot
    from cbtfs.core.rolefile import RoleFile
    from cbtfs.store.encryption.slots import Master

_NewPassphrase = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="File with the new passphrase on its first line.",
    ),
]
_Memory = Annotated[
    int, typer.Option(metavar="MIB", help="Memory that a passphrase takes to try, 8 to 1024.")
]
_Slot = Annotated[
    str, typer.Argument(metavar="SLOT", help="Label of a key slot, or the first digits of its id.")
]


def add_to(app: typer.Typer) -> None:
    keys = typer.Typer(
        cls=SuggestingGroup, no_args_is_help=True, rich_markup_mode=None, add_completion=False
    )
    keys.command("list", epilog=example("cbtfs key list"))(list_keys)
    keys.command(
        "add",
        epilog=example(
            "cbtfs --key-file /root/backup.key key add --new-key-file /root/second.key",
            "cbtfs key add --age-recipient age1... --label escrow",
        ),
    )(add)
    keys.command("remove", epilog=example("cbtfs --key-file FILE key remove recovery"))(remove)
    keys.command("passwd", epilog=example("cbtfs key passwd --new-passphrase-file FILE"))(passwd)
    keys.command(
        "rotate",
        epilog=example("cbtfs --key-file FILE --passphrase-file FILE key rotate"),
    )(rotate_key)
    keys.command(
        "export",
        epilog=example(
            "cbtfs --key-file /root/backup.key key export proxy1.key --role capture",
            "cbtfs --key-file /root/backup.key key export restore.key --role read",
        ),
    )(export)
    keys.command("test", epilog=example("cbtfs --key-file sheet key test"))(try_key)
    app.add_typer(
        keys,
        name="key",
        help=_HELP,
        epilog=example("cbtfs key list", "cbtfs --key-file sheet key test"),
    )


_HELP = """Manage the keys of an encrypted repository.

A repository has one master key. Each key slot holds it, encrypted for one passphrase, key file, age
recipient or program. Removing a slot does not revoke a key: someone who knew the key, or has a copy
of the slot and its secret, can still read all data that was written until now.
"""


def list_keys(context: typer.Context, json: Json = False) -> None:
    """List the key slots of a repository.

    Needs no key. Label, kind, time and age recipient of a slot are visible to everybody who can
    read the repository, and they are not verified.
    """
    from cbtfs.store.encryption.administer import list_slots
    from cbtfs.store.encryption.ring import role_file

    path = repository_path(context)
    repository = _encrypted(path)
    facts, role = list_slots(path, repository), role_file(path, repository)
    if json:
        slots = [{**document_of(fact.slot), "is_current": fact.is_current} for fact in facts]
        emit({"slots": slots, "role_key": None if role is None else _of_role(role)})
        return
    lines = [_line(fact.slot, fact.is_current) for fact in facts]
    print_lines(lines if role is None else [*lines, f"given: {_role_line(role)}"])


def add(
    context: typer.Context,
    label: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="Label of the slot; not secret."),
    ] = None,
    new_passphrase_file: _NewPassphrase = None,
    new_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Key file to create."),
    ] = None,
    age_recipient: Annotated[
        str | None, typer.Option(metavar="RECIPIENT", show_default=False, help="age recipient.")
    ] = None,
    wrap_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            show_default=False,
            help="Program that encrypts the key, from standard input to standard output. "
            "CBTFS_KEY_COMMAND names the one that decrypts it.",
        ),
    ] = None,
    kdf_memory: _Memory = 256,
    json: Json = False,
) -> None:
    """Add a key slot.

    A key that fits is needed, for example --key-file. Without an option for the kind of the new
    slot, the command asks for a passphrase. A new key file is created, and is never overwritten.
    """
    from cbtfs.core.keyslot import MAX_SLOT_BYTES
    from cbtfs.store.encryption import slots as making
    from cbtfs.store.encryption.administer import add_slot
    from cbtfs.store.encryption.credentials import load_passphrase, run_key_command
    from cbtfs.store.encryption.sheet import new_key_file as write_key_file

    given = [new_passphrase_file, new_key_file, age_recipient, wrap_command]
    if sum(value is not None for value in given) > 1:
        raise UsageError("a key slot has one kind: give one of the options for it")
    path = repository_path(context)
    repository = _encrypted(path)
    make: Callable[[Master], Slot]
    written = list[Path]()
    if new_key_file is not None:
        file = new_key_file

        def make(master: Master) -> Slot:
            secret = write_key_file(file, repository)
            written.append(file)
            return making.file_slot(master, label or file.name, secret)

    elif age_recipient is not None:
        recipient = age_recipient

        def make(master: Master) -> Slot:
            return making.age_slot(master, label or "age", recipient)

    elif wrap_command is not None:
        command = wrap_command

        def make(master: Master) -> Slot:
            return making.command_slot(
                master,
                label or "command",
                lambda data: run_key_command(command, data, MAX_SLOT_BYTES // 4),
            )

    else:
        make = _passphrase(label, new_passphrase_file, load_passphrase, kdf_memory)
    try:
        slot = add_slot(path, repository, make)
    except BaseException:
        for file in written:
            file.unlink()  # It opens nothing.
        raise
    _conclude(slot, "added", json)


def _passphrase(
    label: str | None, file: Path | None, load: Callable[[Path], bytes], memory: int
) -> Callable[[Master], Slot]:
    from cbtfs.store.encryption.slots import passphrase_slot

    def make(master: Master) -> Slot:
        passphrase = ask_new_passphrase() if file is None else load(file)
        return passphrase_slot(master, label or "passphrase", passphrase, memory)

    return make


def remove(context: typer.Context, slot: _Slot, json: Json = False) -> None:
    """Remove a key slot.

    This does not revoke the key: someone who knew it can still use it. To exclude them from data
    that is written later, rotate the key.
    """
    from cbtfs.store.encryption.administer import remove_slot

    path = repository_path(context)
    _conclude(remove_slot(path, _encrypted(path), slot), "removed", json)


def passwd(
    context: typer.Context,
    slot: Annotated[
        str | None,
        typer.Argument(
            metavar="[SLOT]",
            show_default=False,
            help="Slot of the passphrase; default: the only one.",
        ),
    ] = None,
    new_passphrase_file: _NewPassphrase = None,
    kdf_memory: _Memory = 256,
    json: Json = False,
) -> None:
    """Replace a passphrase.

    A key that fits is needed. The old slot is removed once the new one exists. Someone who knows
    the old passphrase and has a copy of its slot can still use it.
    """
    from cbtfs.core.keyslot import SlotKind
    from cbtfs.store.encryption.administer import add_slot, find_slot
    from cbtfs.store.encryption.credentials import load_passphrase
    from cbtfs.store.encryption.ring import load_slots

    path = repository_path(context)
    repository = _encrypted(path)
    if slot is None:
        kind = SlotKind.PASSPHRASE
        found = [known for known in load_slots(path, repository) if known.kind is kind]
        if len(found) != 1:
            raise UsageError(
                f"the repository has {len(found)} passphrases: name the slot, see 'cbtfs key list'"
            )
        old = found[0]
    else:
        old = find_slot(path, repository, slot)
        if old.kind is not SlotKind.PASSPHRASE:
            raise UsageError(f"slot {printable(old.label)} has no passphrase")
    make = _passphrase(old.label, new_passphrase_file, load_passphrase, kdf_memory)
    new = add_slot(path, repository, make, instead_of=old)
    _conclude(new, "replaces the old one", json)


def rotate_key(
    context: typer.Context,
    drop_others: Annotated[
        bool,
        typer.Option(
            "--drop-others", help="Remove the slots whose secret is not given; list them first."
        ),
    ] = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Begin a new key epoch: new packs and files have a new master key.

    Give the key files and passphrase files of all slots that you want to keep; slots of age
    recipients are kept without one. An old key cannot read data that is written after the rotation.
    To protect older data, run 'cbtfs prune --rekey' until no pack of an old epoch is left; copies
    of older packs remain readable with an old key. The digest key never changes: to replace it,
    copy the points to a new repository. Restart exports, overlays, and mounts whose passphrase was
    typed: they have only the old key.
    """
    from cbtfs.store.encryption.rotate import rotate
    from cbtfs.store.repository import writing

    path = repository_path(context)
    repository = _encrypted(path)
    with writing(path, lock_wait=lock_wait):
        rotation = rotate(path, repository, drops_others=drop_others)
    if json:
        emit(
            {
                "epoch": rotation.epoch,
                "slots": [document_of(slot) for slot in rotation.slots],
                "removed": [document_of(slot) for slot in rotation.removed],
            }
        )
        return
    lines = [f"key epoch {rotation.epoch} with {len(rotation.slots)} key slots"]
    lines += [f"removed: {_line(slot)}" for slot in rotation.removed]
    report([*lines, "run 'cbtfs prune --rekey' to encrypt older packs again"])


def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Key file to create.")],
    role: Annotated[
        str,
        typer.Option(metavar="ROLE", help="capture or read.", show_default=False),
    ],
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Write a key file for a role.

    A capture key is for hosts that only capture, such as a proxy: it writes restore points, reads
    names, sizes and block maps, and cannot read the content of disks. A read key can do
    everything but manage keys. Both open the repository without a key slot, so they work until the
    key is rotated, and 'cbtfs key remove' does not affect them. After the first capture key, older
    versions of cbtfs refuse the repository; restart running mounts, exports and overlays.
    """
    from cbtfs.core.rolefile import Role
    from cbtfs.store.capture_keys import allow_capture_keys
    from cbtfs.store.encryption.ring import all_masters, open_master
    from cbtfs.store.encryption.roles import make_role, write_role
    from cbtfs.store.repository import writing
    from cbtfs.store.settings import load_settings

    if role not in (Role.CAPTURE, Role.READ):
        raise UsageError(f"unknown --role {role!r}: use capture or read")
    path = repository_path(context)
    repository = _encrypted(path)
    if os.path.lexists(file):
        raise UsageError(f"{file} exists: name a new file for the key")
    if role == Role.CAPTURE and load_settings(path).is_shared:
        raise UsageError(f"{path} has shared writers, which capture keys do not support yet")
    masters, digest = all_masters(path, open_master(path, repository))
    made = make_role(repository, Role(role), masters, digest)
    if made.role is Role.CAPTURE:
        with writing(path, lock_wait=lock_wait) as opened:
            allow_capture_keys(opened)
    write_role(file, made)
    if json:
        emit({"file": str(file.absolute()), "role_key": _of_role(made)})
    else:
        report([f"{_role_line(made)}: written to {file}"])


def try_key(context: typer.Context, json: Json = False) -> None:
    """Test a key: open a slot with it, and exit with 14 if none fits.

    A role key opens no slot; its role is printed. Test every key and the recovery sheet regularly.
    """
    from cbtfs.store.encryption.ring import all_masters, open_slot, role_file, unlock

    path = repository_path(context)
    repository = _encrypted(path)
    role = role_file(path, repository)
    if role is None:
        opened = open_slot(path, repository)
        all_masters(path, opened.master)
        if json:
            emit({"slot": document_of(opened.slot), "role_key": None})
        else:
            _conclude(opened.slot, "opens the repository", as_json=False)
        return
    unlock(path)
    if json:
        emit({"slot": None, "role_key": _of_role(role)})
    else:
        report([f"{_role_line(role)}: opens the repository"])


def _encrypted(path: Path) -> str:
    """Return the id of the repository at *path*; UsageError if it is not encrypted."""
    from cbtfs.store.settings import load_settings

    settings = load_settings(path)
    if not settings.is_encrypted:
        raise UsageError(f"{path} is not encrypted: copy it into a repository that is")
    return settings.id


def _of_role(file: RoleFile) -> dict[str, Any]:
    """Return a key file of a role for --json."""
    return {
        "role": str(file.role),
        "signer": _signer(file),
        "created": file.created,
        "epoch": file.epoch,
    }


def _role_line(file: RoleFile) -> str:
    can = "without content" if file.role == "capture" else "with content"
    return f"{file.role} key {_signer(file)} of key epoch {file.epoch}, {can}"


def _signer(file: RoleFile) -> str:
    from cbtfs.store.encryption.roles import shown_signer
    from cbtfs.store.encryption.signatures import Signer

    return shown_signer(Signer(file.seed).public)


def _line(slot: Slot, is_current: bool = True) -> str:
    recipient = f"  {slot.recipient}" if slot.recipient else ""
    old = "" if is_current else "  (old epoch)"
    label = printable(slot.label)
    return f"{slot.id[:8]}  {slot.kind:<10}  {slot.created}  {label}{recipient}{old}"


def _conclude(slot: Slot, done: str, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {"slot": document_of(slot)}
        emit(document)
    else:
        report([f"key slot {printable(slot.label)} ({slot.kind}, {slot.id[:8]}) {done}"])
