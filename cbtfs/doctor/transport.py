"""The transport that an ingest would use for a VM, and the privileges that it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cbtfs.doctor.finding import Finding, Severity
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.transport.choose import choose
from cbtfs.source.transport.httpnfc.transport import HttpNfcTransport
from cbtfs.source.vsphere.connect.role import ROLE, Privilege, Use


@dataclass(frozen=True, slots=True)
class TransportChoice:
    """The choice that an ingest would make."""

    transport: str | None
    """Name of the transport; None if no transport can read all disks."""
    refusals: tuple[str, ...]
    """Why each earlier transport cannot read them; `name: why`."""
    others: tuple[str, ...]
    """Names of later transports that could read the disks, too."""
    uses: frozenset[Use]
    """Groups of privileges that the transport needs."""

    @property
    def is_by_library(self) -> bool:
        """VMware's library reads the disks from the NFC port of the hosts."""
        return "vddk" in self.uses


_BY_TICKET: Final[frozenset[Use]] = frozenset({"nfc"})

NO_TRANSPORT = TransportChoice(None, (), (), frozenset())


def choose_transport(
    transports: Sequence[Transport],
    disks: Sequence[TransportDisk],
    lacks: frozenset[str] = frozenset(),
) -> TransportChoice:
    """Return the transport for *disks* that an ingest would choose.

    *lacks* are the ids of the privileges that the user lacks on the VM. An ingest asks for a ticket
    of each VM, and chooses another transport than `nfc` where it gets none; `doctor` does not ask.
    """
    tried = list(transports)
    denied = [
        privilege.id
        for privilege in ROLE
        if privilege.id in lacks and privilege.on == "vm" and privilege.is_for(_BY_TICKET)
    ]
    if denied and {transport.privileges for transport in tried} == {_BY_TICKET}:
        return TransportChoice(tried[0].name, (), (), _BY_TICKET)  # of_privileges() reports it
    if denied:
        tried = [transport for transport in tried if transport.privileges != _BY_TICKET]
    try:
        chosen, refusals = choose(tried, disks)
    except SourceUnavailable as exc:
        return TransportChoice(None, (str(exc),), (), frozenset())
    if len(tried) < len(transports):
        refusals = (*refusals, f"nfc: the user lacks {denied[0]}")
    after = transports[list(transports).index(chosen) + 1 :]
    others = tuple(
        later.name
        for later in after
        if later in tried and all(later.refusal(disk) is None for disk in disks)
    )
    return TransportChoice(chosen.name, refusals, others, chosen.privileges)


def of_transport(choice: TransportChoice) -> Iterator[Finding]:
    if choice.transport == HttpNfcTransport.name:
        yield Finding(
            "transport",
            Severity.FULL,
            f"only an export of whole disks (httpnfc) can read them: {'; '.join(choice.refusals)}",
            "fix one of these obstacles, or give --nbd-uri: later backups may need --full",
        )
    if choice.transport is None:
        for refusal in choice.refusals:
            yield Finding(
                "transport",
                Severity.BLOCKS,
                refusal,
                "fix one of these obstacles, or give --nbd-uri",
            )


def of_privileges(
    lacking: frozenset[str], uses: frozenset[Use], user: str, where: str
) -> Iterator[Finding]:
    """Yield a finding for each privilege of *uses* that is missing on one object."""
    for privilege in ROLE:
        severity = _severity(privilege, uses)
        if privilege.id in lacking and severity is not None:
            yield Finding(
                "privilege",
                severity,
                f"{user} lacks {privilege.id}, for {privilege.purpose}",
                f"add it to the role that the user has on {where}",
            )


def _severity(privilege: Privilege, uses: frozenset[Use]) -> Severity | None:
    is_needed = privilege.is_for(uses)
    if privilege.use == "datastore" and not is_needed:
        return Severity.WARNING  # the VM's small files are not in the point
    if privilege.use != "always" and not is_needed:
        return None
    if privilege.use == "hold":
        return Severity.WARNING
    return Severity.INFO if privilege.use in ("upgrade", "setting") else Severity.BLOCKS
