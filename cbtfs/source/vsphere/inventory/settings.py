"""Which of a VM's settings may be kept, and a .vmx file without the others.

Anybody may put a setting of any name into a VM's configuration, and passwords are put there:
`guestinfo.userdata`, `machine.id`, `RemoteDisplay.vnc.password`. So a value is kept only where its
name is of a family that describes the virtual machine itself, no word in the name speaks of a
secret, and the value is no URL with a login in it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

_DEVICES: Final = """
    ehci ethernet floppy hpet ide iommu keyboard mouse nvme parallel pcibridge pcipassthru
    precisionclock sata scsi serial sound svga uhci usb usb_xhci vmci watchdog
"""
_MACHINE: Final = """
    acpi bios board-id chipset config cpuid displayname efi encoding evccompatibilitymode featmask
    firmware guestos hw hypervisor ich7m mem memory memsize memtrimrate monitor monitor_control numa
    numvcpus nvram policy powertype rtc sev sgx smbios time timetracker uefi ulm uuid vc vcpu vhv
    virtualhw viv vmotion vpmc vvtd
"""
_CARE: Final = """
    checkpoint cleanshutdown ctkenabled disk extendedconfigfile gui isolation log logging migrate
    mks priority remotedisplay replay sched snapshot softpoweroff suspend tools toolscripts vmware
    vmxstats workingdir
"""
_FAMILIES: Final = frozenset(f"{_DEVICES} {_MACHINE} {_CARE}".split())
"""First parts of names, in lower case and without numbers."""
_ALSO: Final = frozenset({"vtpm.present"})
_SECRET: Final = re.compile(r"passw|passphrase|secret|token|credential|cookie|key$")
_LOGIN: Final = re.compile(r"://[^/\s]*@")
_SETTING: Final = re.compile(r'\s*([^\s=#"]+)\s*=\s*"([^"]*)"\s*\Z')


def speaks_of_secret(name: str) -> bool:
    """Whether what a thing is called says that it is none of our business."""
    return _SECRET.search(name.lower()) is not None


def has_login(value: str) -> bool:
    """Whether *value* is a URL with a user or a password in it."""
    return _LOGIN.search(value) is not None


def is_kept(name: str, value: str) -> bool:
    """Whether the value of a setting may stand in the repository."""
    lowered = name.lower()
    family = lowered.removeprefix(".").partition(".")[0].rstrip("0123456789:")
    is_known = family in _FAMILIES or lowered in _ALSO
    return is_known and not speaks_of_secret(lowered) and not has_login(value)


def kept_vmx(content: bytes, disks: Mapping[str, str]) -> bytes:
    """A .vmx file as it may be kept; the very same bytes if nothing speaks against it.

    *disks* gives the file of each disk by slot, as scsi0:0: where a delta file stands there, as
    while a snapshot exists, this name takes its place. What is left out is named in comments.
    """
    changed: list[str] = []
    lines = list(_kept_lines(content.decode("utf-8", "surrogateescape"), disks, changed))
    if not changed:
        return content
    head = [
        "# A copy by cbtfs, which is not the file as it was: what may be secret is left out.",
        *(f"# {what}" for what in changed),
    ]
    return "".join(f"{line}\n" for line in (*head, *lines)).encode("utf-8", "surrogateescape")


def _kept_lines(text: str, disks: Mapping[str, str], changed: list[str]) -> Iterator[str]:
    files = {f"{slot}.filename".lower(): name for slot, name in disks.items()}
    for line in text.splitlines():
        found = _SETTING.match(line)
        if found is None:
            if line.startswith("#!") or not line.strip():
                yield line
            else:
                changed.append("left out: a line that is no setting")
            continue
        name, value = found.groups()
        if not is_kept(name, value):
            changed.append(f"left out: {name}")
            continue
        file = files.get(name.lower())
        folder, slash, last = value.rpartition("/")
        if file is not None and file != last:
            changed.append(f"{name} was {last}, a file of a snapshot")
            line = f'{name} = "{folder}{slash}{file}"'
        yield line
