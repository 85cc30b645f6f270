"""Options for the login to a vCenter or ESXi host."""

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
        help="VMs by name, inventory path, pattern of either, or instance UUID.",
    ),
]
Server = Annotated[
    str,
    typer.Option(metavar="HOST", show_default=False, help="Address of the vCenter or ESXi host."),
]
User = Annotated[str, typer.Option(metavar="U", show_default=False, help="User name.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="F",
        show_default=False,
        help="File whose first line is the password (default: $CBTFS_VSPHERE_PASSWORD, the "
        "keyring, or a prompt).",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(metavar="F", show_default=False, help="PEM file of trusted CA certificates."),
]
Thumbprint = Annotated[
    str | None,
    typer.Option(
        metavar="HEX",
        show_default=False,
        help="SHA-256 fingerprint of the only trusted certificate.",
    ),
]


@dataclass(frozen=True, slots=True)
class Login:
    """A trusted server, and the user to log in with."""

    address: Address
    tls: SSLContext
    user: str
    password: Secret

    def session(self, stop: Event | None = None) -> Session:
        """Return a session as a context manager. *stop* ends its waits for the server."""
        from cbtfs.source.vsphere.connect.session import Session

        return Session(self.address, self.tls, self.user, self.password, stop=stop)


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """Server, user, and the trust in the server's certificate."""

    server: Server
    user: User
    password_file: PasswordFile = None
    ca_file: CaFile = None
    thumbprint: Thumbprint = None

    def check(self) -> None:
        """Raise UsageError if the options exclude each other."""
        if self.ca_file is not None and self.thumbprint is not None:
            raise UsageError("--ca-file and --thumbprint are mutually exclusive: give one")

    def login(self) -> Login:
        """Return the login that the options describe; prompt for a password if none is given.

        UsageError if the options are invalid, SourceUnavailable if the server's certificate does
        not have the thumbprint.
        """
        from cbtfs.source.vsphere.connect.address import parse_address

        self.check()
        address = parse_address(self.server)
        password = find_password(self.password_file, address.host, self.user)

        from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
        from cbtfs.source.vsphere.connect.tls import parse_thumbprint, pinned, verifying

        if self.thumbprint is None:
            tls = verifying(self.ca_file)
        else:
            tls = pinned(address, parse_thumbprint(self.thumbprint), RetryPolicy().reply)
        return Login(address, tls, self.user, password)
