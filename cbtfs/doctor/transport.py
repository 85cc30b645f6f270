"""By which transport a machine's disks would be read, and what that needs besides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cbtfs.doctor.finding import Finding, Severity
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import FrozenDisk, Transport
from cbtfs.source.transport.choose import choose
from cbtfs.source.vsphere.connect.role import ROLE, Privilege, Use


@dataclass(frozen=True, slots=True)
class TransportChoice:
    """What an ingest would choose."""

    transport: str | None
    """Its name; None if none can read all disks."""
    refusals: tuple[str, ...]
    """Why those before it cannot; `name: why`."""
    others: tuple[str, ...]
    """Names of those after it that could as well."""
    uses: frozenset[Use]
    """Which privileges it takes."""

    @property
    def is_by_library(self) -> bool:
        """VMware's library reads, from the NFC port of the hosts."""
        return "vddk" in self.uses


NO_TRANSPORT = TransportChoice(None, (), (), frozenset())


def choose_transport(
    transports: Sequence[Transport], disks: Sequence[FrozenDisk]
) -> TransportChoice:
    """The transport for *disks*, as an ingest chooses it."""
    try:
        chosen, refusals = choose(transports, disks)
    except SourceUnavailable as exc:
        return TransportChoice(None, (str(exc),), (), frozenset())
    after = transports[list(transports).index(chosen) + 1 :]
    others = tuple(each.name for each in after if all(each.refusal(disk) is None for disk in disks))
    return TransportChoice(chosen.name, refusals, others, chosen.privileges)


def of_transport(choice: TransportChoice) -> Iterator[Finding]:
    if choice.transport is None:
        for refusal in choice.refusals:
            yield Finding(
                "transport",
                Severity.BLOCKS,
                refusal,
                "mend one of these, or give --nbd-uri",
            )


def of_privileges(
    lacking: frozenset[str], uses: frozenset[Use], user: str, where: str
) -> Iterator[Finding]:
    """What is lacking of the role on one object, as far as *uses* take it."""
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
    if privilege.use == "datastore" and privilege.use not in uses:
        return Severity.WARNING  # the VM's small files are not in the point
    if privilege.use != "always" and privilege.use not in uses:
        return None
    if privilege.use == "hold":
        return Severity.WARNING
    return Severity.INFO if privilege.use in ("upgrade", "setting") else Severity.BLOCKS
