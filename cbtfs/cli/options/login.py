"""Options for the login to a vCenter or ESXi host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.context import configuration
from cbtfs.cli.options.password import find_password, has_password_variable
from cbtfs.core.names import printable
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from ssl import SSLContext
    from threading import Event

    from cbtfs.source.secret import Secret
    from cbtfs.source.vsphere.connect.address import Address
    from cbtfs.source.vsphere.connect.session import Session

SERVER_VARIABLE: Final = "CBTFS_VSPHERE_SERVER"
USER_VARIABLE: Final = "CBTFS_VSPHERE_USER"

VmNames = Annotated[
    list[str],
    typer.Argument(
        metavar="VM…",
        show_default=False,
        help="VMs by name, inventory path, pattern of either, or instance UUID.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        envvar=SERVER_VARIABLE,
        show_envvar=False,
        show_default=False,
        help="vCenter or ESXi host: its address, or NAME of a table [server.NAME] of the "
        f"configuration (default: ${SERVER_VARIABLE}).",
    ),
]
User = Annotated[
    str | None,
    typer.Option(
        metavar="U",
        envvar=USER_VARIABLE,
        show_envvar=False,
        show_default=False,
        help=f"User name (default: ${USER_VARIABLE}, else the configuration's).",
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="F",
        show_default=False,
        help="File whose first line is the password (default: $CBTFS_VSPHERE_PASSWORD, the "
        "configuration's, the keyring, or a prompt).",
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
        from cbtfs.source.vsphere.connect.session import Credentials, Session

        credentials = Credentials(self.user, self.password)
        return Session(self.address, self.tls, credentials, stop=stop)


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """Server, user, and the trust in the server's certificate."""

    server: Server = None
    user: User = None
    password_file: PasswordFile = None
    ca_file: CaFile = None
    thumbprint: Thumbprint = None

    def resolve(self, context: typer.Context) -> ServerLogin:
        """Return the server and the login of the options, the environment and the configuration.

        The first of these that has a value wins. UsageError if there is no server or no user, or
        if options exclude each other.
        """
        if self.ca_file is not None and self.thumbprint is not None:
            raise UsageError("--ca-file and --thumbprint are mutually exclusive: give one")
        if not self.server:
            raise UsageError(f"no server given: use --server HOST, or set {SERVER_VARIABLE}")
        table = configuration(context).servers.get(self.server)
        user = self.user or (table and table.user)
        if not user:
            where = printable(self.server)
            servers = configuration(context).servers
            names = ", ".join(map(printable, servers))
            known = f"; the configuration has the servers {names}" if servers else ""
            raise UsageError(
                f"no user of {where} given: use --user NAME, or set {USER_VARIABLE}{known}", servers
            )
        if table is None:
            return ServerLogin(self.server, user, self.password_file, self.ca_file, self.thumbprint)
        is_pinned = self.ca_file is not None or self.thumbprint is not None
        return ServerLogin(
            table.address,
            user,
            self.password_file or (None if has_password_variable() else table.password_file),
            self.ca_file if is_pinned else table.ca_file,
            self.thumbprint if is_pinned else table.thumbprint,
        )


@dataclass(frozen=True, slots=True)
class ServerLogin:
    """A server, and how to log in and trust it; the certificate is not checked yet."""

    server: str
    user: str
    password_file: Path | None
    ca_file: Path | None
    thumbprint: str | None

    def login(self) -> Login:
        """Return the login; prompt for a password if none is given.

        UsageError if the address or a file is invalid, SourceUnavailable if the server's
        certificate does not have the thumbprint.
        """
        from cbtfs.source.vsphere.connect.address import parse_address

        address = parse_address(self.server)
        password = find_password(self.password_file, address.host, self.user)

        from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
        from cbtfs.source.vsphere.connect.tls import parse_thumbprint, pinned, verifying

        if self.thumbprint is None:
            tls = verifying(self.ca_file)
        else:
            tls = pinned(address, parse_thumbprint(self.thumbprint), RetryPolicy().reply)
        return Login(address, tls, self.user, password)
