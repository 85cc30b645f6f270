"""Decide which settings of a VM may be stored, and remove the others from a .vmx file.

A VM's configuration accepts settings of any name, and users store passwords there:
`guestinfo.userdata`, `machine.id`, `RemoteDisplay.vnc.password`. A value is therefore stored only
if its name belongs to a family that describes the virtual hardware, no word of the name suggests a
secret, and the value is not a URL with a login.
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
"""First components of allowed names, in lower case and without numbers."""
_ALSO: Final = frozenset({"vtpm.present"})
_SECRET: Final = re.compile(r"passw|passphrase|secret|token|credential|cookie|key$")
_LOGIN: Final = re.compile(r"://[^/\s]*@")
_SETTING: Final = re.compile(r'\s*([^\s=#"]+)\s*=\s*"([^"]*)"\s*\Z')


def suggests_secret(name: str) -> bool:
    """Return whether a word of *name* suggests that the value is a secret."""
    return _SECRET.search(name.lower()) is not None


def has_login(value: str) -> bool:
    """Return whether *value* is a URL with a user name or password."""
    return _LOGIN.search(value) is not None


def is_kept(name: str, value: str) -> bool:
    """Return whether the value of a setting may be stored in the repository."""
    lowered = name.lower()
    family = lowered.removeprefix(".").partition(".")[0].rstrip("0123456789:")
    is_known = family in _FAMILIES or lowered in _ALSO
    return is_known and not suggests_secret(lowered) and not has_login(value)


def kept_vmx(content: bytes, disks: Mapping[str, str]) -> bytes:
    """Return a .vmx file without settings that may be secret; unchanged if it has none.

    *disks* has the file name of each disk by slot, such as scsi0:0. It replaces the name of a delta
    file, which the .vmx has while a snapshot exists. Comments in the result list all changes.
    """
    changes: list[str] = []
    lines = list(_kept_lines(content.decode("utf-8", "surrogateescape"), disks, changes))
    if not changes:
        return content
    head = [
        "# This copy by cbtfs differs from the original: it omits settings that may be secret.",
        *(f"# {change}" for change in changes),
    ]
    return "".join(f"{line}\n" for line in (*head, *lines)).encode("utf-8", "surrogateescape")


def _kept_lines(text: str, disks: Mapping[str, str], changes: list[str]) -> Iterator[str]:
    files = {f"{slot}.filename".lower(): name for slot, name in disks.items()}
    for line in text.splitlines():
        match = _SETTING.match(line)
        if match is None:
            if line.startswith("#!") or not line.strip():
                yield line
            else:
                changes.append("omitted: a line that is not a setting")
            continue
        name, value = match.groups()
        if not is_kept(name, value):
            changes.append(f"omitted: {name}")
            continue
        file = files.get(name.lower())
        folder, slash, last = value.rpartition("/")
        if file is not None and file != last:
            changes.append(f"{name} was {last}, a file of a snapshot")
            line = f'{name} = "{folder}{slash}{file}"'
        yield line
