"""Points include the settings that define the VM, and none that may be secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim

from cbtfs.source.vsphere.inventory.document import document_of
from cbtfs.source.vsphere.inventory.settings import is_kept, kept_vmx

HARMLESS = {
    ".encoding": "UTF-8",
    "config.version": "8",
    "virtualHW.version": "19",
    "displayName": "web1",
    "guestOS": "ubuntu-64",
    "memSize": "2048",
    "numvcpus": "2",
    "cpuid.coresPerSocket": "2",
    "firmware": "efi",
    "uefi.secureBoot.enabled": "TRUE",
    "nvram": "web1.nvram",
    "uuid.bios": "42 30",
    "vc.uuid": "50 23",
    "viv.moid": "host-1:vm-2:x",
    "scsi0.virtualDev": "pvscsi",
    "scsi0:0.fileName": "web1.vmdk",
    "scsi0:0.ctkEnabled": "TRUE",
    "nvme0:0.present": "TRUE",
    "ethernet0.networkName": "VM Network",
    "ethernet0.generatedAddress": "00:50:56:00:00:01",
    "pciPassthru0.id": "0000:03:00.0",
    "usb_xhci:4.present": "TRUE",
    "vmci0.id": "-1",
    "vtpm.present": "TRUE",
    "tools.syncTime": "FALSE",
    "disk.EnableUUID": "TRUE",
    "RemoteDisplay.vnc.enabled": "TRUE",
    "migrate.hostLog": "web1.hlog",
    "sched.cpu.latencySensitivity": "normal",
}
SECRET = {
    "annotation": "the password is hunter2",
    "guestinfo.userdata": "hunter2",
    "guestinfo.metadata.encoding": "base64",
    "machine.id": "hunter2",
    "RemoteDisplay.vnc.password": "hunter2",
    "RemoteDisplay.vnc.key": "hunter2",
    "encryption.keySafe": "hunter2",
    "encryption.data": "hunter2",
    "dataFileKey": "hunter2",
    "vtpm.ekCSR": "hunter2",
    "appliance.rootpw": "hunter2",
    "tools.proxy.token": "hunter2",
    "serial0.fileName": "telnet://admin:hunter2@10.0.0.1:7000",
    "scsi0": "hunter2@",
}


def vmx(settings: dict[str, str]) -> bytes:
    return "".join(f'{name} = "{value}"\n' for name, value in settings.items()).encode()


@pytest.mark.parametrize("name", HARMLESS)
def test_settings_that_define_the_vm_are_kept(name: str) -> None:
    assert is_kept(name, HARMLESS[name])


@pytest.mark.parametrize("name", [name for name in SECRET if name != "scsi0"])
def test_settings_that_may_be_secret_are_not_kept(name: str) -> None:
    assert not is_kept(name, SECRET[name])
    assert not is_kept(name.upper(), SECRET[name])


def test_a_file_without_secrets_is_the_same_byte_for_byte() -> None:
    content = b"#!/usr/bin/vmware\n\n" + vmx(HARMLESS).replace(b"\n", b"\r\n")

    assert kept_vmx(content, {"scsi0:0": "web1.vmdk"}) == content


def test_a_file_with_secrets_lists_the_omitted_settings() -> None:
    content = vmx(HARMLESS | {n: SECRET[n] for n in SECRET if n != "scsi0"})
    content += b"# written by a person: hunter2\nnot a setting: hunter2\n"
    kept = kept_vmx(content, {})

    assert b"hunter2" not in kept
    assert kept.endswith(vmx(HARMLESS))
    comments = [line for line in kept.decode().splitlines() if line.startswith("#")]
    assert "copy by cbtfs" in comments[0]
    assert "# omitted: guestinfo.userdata" in comments
    assert len(comments) == 1 + (len(SECRET) - 1) + 2


def test_the_name_of_a_delta_file_is_replaced_by_that_of_the_disk() -> None:
    content = (
        b'scsi0:0.fileName = "web1-000002.vmdk"\nscsi0:1.FileName = "/vmfs/volumes/x/b.vmdk"\n'
    )
    kept = kept_vmx(content, {"scsi0:0": "web1.vmdk", "scsi0:1": "a.vmdk"}).decode()

    assert 'scsi0:0.fileName = "web1.vmdk"' in kept
    assert 'scsi0:1.FileName = "/vmfs/volumes/x/a.vmdk"' in kept
    assert "# scsi0:0.fileName was web1-000002.vmdk, a file of a snapshot" in kept


@given(st.binary(max_size=200), st.text(max_size=20))
def test_any_bytes_are_parsed_and_unknown_settings_are_omitted(junk: bytes, name: str) -> None:
    marked = b'x-%s = "hunter2"\n' % name.encode("utf-8", "surrogatepass")
    kept = kept_vmx(junk + b"\n" + marked, {})

    assert b"hunter2" not in kept


def test_the_document_of_a_configuration_has_no_secrets() -> None:
    config = vim.vm.ConfigInfo(
        name="web1",
        annotation="hunter2",
        extraConfig=[
            vim.option.OptionValue(key=key, value=value)
            for key, value in (HARMLESS | SECRET).items()
        ],
        vAppConfig=vim.vApp.VmConfigInfo(
            property=[
                vim.vApp.PropertyInfo(key=1, id="pw", value="hunter2", defaultValue="hunter2")
            ],
            ovfSection=[vim.vApp.OvfSectionInfo(key=1, type="x", contents="hunter2")],
        ),
        hardware=vim.vm.VirtualHardware(
            numCPU=2,
            device=[
                vim.vm.device.VirtualSerialPort(
                    key=9000,
                    backing=vim.vm.device.VirtualSerialPort.URIBackingInfo(
                        serviceURI="telnets://u:hunter2@h", direction="client"
                    ),
                ),
                vim.vm.device.VirtualTPM(key=11000, endorsementKeyCertificate=[b"\0\1"]),
            ],
        ),
    )
    document = document_of(config)

    assert "hunter2" not in str(document["config"]).replace("hunter2@'", "")
    assert "annotation" in document["left_out"]
    assert "extraConfig guestinfo.userdata" in document["left_out"]
    assert "vAppConfig.property.value" in document["left_out"]
    assert "hardware.device.backing.serviceURI" in document["left_out"]
    options = document["config"]["extraConfig"]
    kept = {option["key"]: option.get("value") for option in options}
    assert {name: kept[name] for name in HARMLESS} == HARMLESS
    assert kept["guestinfo.userdata"] is None
    assert document["config"]["hardware"]["device"][1]["endorsementKeyCertificate"] == ["AAE="]


def test_a_name_of_millions_of_digits_is_parsed_in_linear_time() -> None:
    """A user who may write the .vmx must not be able to stop the capture of the VM."""
    line = b"1" * (4 << 20) + b'x = "y"'

    assert kept_vmx(line, {}).splitlines()[1].startswith(b"# omitted: 111")
