"""Options that make key slots, shared by `init --encrypt` and `key`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cbtfs.cli.options.context import options_of
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.core.keyslot import Slot
    from cbtfs.store.encryption.credentials import Credentials
    from cbtfs.store.repository import NewKeys


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The keys of a new repository."""

    context: typer.Context
    sheet: Path | None
    has_no_recovery: bool
    recipients: Sequence[str]
    memory_mib: int

    def require_consistent(self, encrypt: bool) -> None:
        """Raise UsageError if options are missing or contradict each other."""
        if not encrypt:
            if self.sheet is not None or self.has_no_recovery or self.recipients:
                raise UsageError(
                    "--recovery-sheet, --no-recovery and --age-recipient require --encrypt"
                )
            return
        if self.sheet is not None and self.has_no_recovery:
            raise UsageError("--recovery-sheet and --no-recovery are mutually exclusive")
        if self.sheet is None and not self.has_no_recovery:
            raise UsageError(
                "--encrypt requires --recovery-sheet FILE, which is printed and kept elsewhere, or "
                "--no-recovery: without a key all data is lost"
            )
        if self.sheet is not None and _is_stdout(self.sheet):
            raise UsageError(f"--recovery-sheet {self.sheet} is no file: name a new file")

    def make(self, path: Path, repository: str, related: Path | None) -> NewKeys:
        """Return the keys of a new repository at *path*, and keep them in this process.

        The digest key is that of the repository at *related*, if there is one. Key files that do
        not exist are created; UsageError if the recovery sheet exists.
        """
        from cbtfs.store.encryption import ring
        from cbtfs.store.encryption import slots as making
        from cbtfs.store.encryption.credentials import (
            Credentials,
            load_key_file,
            load_passphrase,
        )
        from cbtfs.store.encryption.keys import FIRST_EPOCH, KEY_BYTES, keys_of_masters
        from cbtfs.store.encryption.sheet import new_key_file
        from cbtfs.store.repository import NewKeys

        options = options_of(self.context)
        _refuse_used(path)
        digest = secrets.token_bytes(KEY_BYTES)
        if related is not None:
            existing = tuple(file for file in options.key_files if file.exists())
            digest = _digest_key(related, Credentials(existing, options.passphrase_files))
        master = making.new_master(repository, FIRST_EPOCH)
        passphrases = [load_passphrase(file) for file in options.passphrase_files]
        if not (passphrases or options.key_files or self.recipients):
            passphrases = [ask_new_passphrase()]
        slots = [making.age_slot(master, "age", recipient) for recipient in self.recipients]
        slots += [
            making.passphrase_slot(master, "passphrase", passphrase, self.memory_mib)
            for passphrase in passphrases
        ]
        for file in options.key_files:
            secret = load_key_file(file) if file.exists() else new_key_file(file, repository)
            slots.append(making.file_slot(master, file.name, secret))
        if self.sheet is not None:
            secret = new_key_file(self.sheet, repository, sheet_of=path.absolute())
            slots.append(making.file_slot(master, "recovery", secret))
        ring.hold(keys_of_masters(repository, {master.epoch: master.key}, digest))
        return NewKeys(making.previous_epoch(master, digest), slots)


def _refuse_used(path: Path) -> None:
    """Raise UsageError early, before key files are made for a directory that is in use."""
    from cbtfs.store.backend.remote import remote_of, require_unused

    url = remote_of(path)
    if url is not None:
        if not (path / "repository.json").exists():  # Else, create_repository() says so.
            require_unused(path, url)
        return
    if path.is_dir() and any(path.iterdir()):
        what = "already a repository" if (path / "repository.json").exists() else "not empty"
        raise UsageError(f"{path} is {what}: name an empty directory")


def _digest_key(related: Path, found: Credentials) -> bytes:
    """Return the digest key of another repository; KeyUnavailable if no key given fits."""
    from cbtfs.store.encryption.credentials import use
    from cbtfs.store.encryption.ring import keys_of

    use(found)
    keys = keys_of(related)
    assert keys is not None
    return keys.digest


def _is_stdout(path: Path) -> bool:
    return str(path) == "-" or str(path).startswith(("/dev/std", "/dev/fd", "/dev/tty", "/proc/"))


def ask_new_passphrase() -> bytes:
    """Return a passphrase that the user types twice; UsageError without a terminal."""
    from cbtfs.store.encryption.credentials import ask

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("no passphrase: use --passphrase-file FILE or --key-file FILE")
    first = ask("new passphrase: ")
    if not first:
        raise UsageError("the passphrase is empty")
    if ask("the same again: ") != first:
        raise UsageError("the two passphrases differ")
    return first


def document_of(slot: Slot) -> dict[str, Any]:
    """Return a key slot for --json."""
    return {
        "id": slot.id,
        "kind": str(slot.kind),
        "label": slot.label,
        "created": slot.created,
        "epoch": slot.epoch,
        "recipient": slot.recipient,
    }
