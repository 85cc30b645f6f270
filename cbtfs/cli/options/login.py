"""The options that say which vCenter or ESXi host is meant, and who logs in to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.password import find_password
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from ssl import SSLContext
    from threading import Event

    from cbtfs.source.secret import Secret
    from cbtfs.source.vsphere.connect.address import Address
    from cbtfs.source.vsphere.connect.session import Session

VmNames = Annotated[
    list[str],
    typer.Argument(
        metavar="VM…",
        show_default=False,
        help="Names, inventory paths, patterns of both, or instance UUIDs.",
    ),
]
Server = Annotated[
    str,
    typer.Option(metavar="HOST", show_default=False, help="The vCenter or ESXi host."),
]
User = Annotated[str, typer.Option(metavar="U", show_default=False, help="Who logs in.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="F",
        show_default=False,
        help="Its first line is the password. Else CBTFS_VSPHERE_PASSWORD, the keyring, "
        "or a prompt.",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(metavar="F", show_default=False, help="Certificates of the CAs to trust, in PEM."),
]
Thumbprint = Annotated[
    str | None,
    typer.Option(
        metavar="HEX", show_default=False, help="SHA-256 of the only certificate to trust."
    ),
]


@dataclass(frozen=True, slots=True)
class Login:
    """A server that is to be believed, and who logs in to it."""

    address: Address
    tls: SSLContext
    user: str
    password: Secret

    def session(self, stop: Event | None = None) -> Session:
        """A session, logged in; to be used with `with`. *stop* ends its waiting for the server."""
        from cbtfs.source.vsphere.connect.session import Session

        return Session(self.address, self.tls, self.user, self.password, stop=stop)


def check_trust(ca_file: Path | None, thumbprint: str | None) -> None:
    """UsageError if both say whom to trust."""
    if ca_file is not None and thumbprint is not None:
        raise UsageError("--ca-file and --thumbprint exclude each other: give one")


def find_login(
    server: str,
    user: str,
    password_file: Path | None,
    ca_file: Path | None,
    thumbprint: str | None,
) -> Login:
    """What the options say; asks for a password where none is given.

    UsageError if they make no sense, SourceUnavailable if the server is not the one pinned.
    """
    from cbtfs.source.vsphere.connect.address import parse_address

    check_trust(ca_file, thumbprint)
    address = parse_address(server)
    password = find_password(password_file, address.host, user)

    from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
    from cbtfs.source.vsphere.connect.tls import parse_thumbprint, pinned, verifying

    if thumbprint is None:
        tls = verifying(ca_file)
    else:
        tls = pinned(address, parse_thumbprint(thumbprint), RetryPolicy().reply)
    return Login(address, tls, user, password)
