"""ServiceInstance, the entry point of the API."""

from typing import Any

from tools.vsim.api.base import ManagedObject, MethodCall, Properties, Site
from tools.vsim.api.nfc import internal_content
from tools.vsim.soap.vmodl import vim


class ServiceInstance(ManagedObject):
    kind = vim.ServiceInstance

    def __init__(self, site: Site, moid: str, nfc: ManagedObject) -> None:
        super().__init__(site, moid)
        self._nfc = nfc

    def properties(self) -> Properties:
        return {
            "content": self.content,
            "serverClock": self.site.world.now,
            "capability": lambda: vim.Capability(
                provisioningSupported=True,
                multiHostSupported=self.site.world.is_vcenter,
                userShellAccessSupported=False,
            ),
        }

    def content(self) -> Any:
        """Return the ServiceInstanceContent: references to all managers."""
        refs = {name: manager.object for name, manager in self.site.managers.items()}
        return vim.ServiceInstanceContent(
            about=self.site.about, rootFolder=self.site.root.object, **refs
        )

    def RetrieveServiceContent(self, call: MethodCall) -> Any:
        return self.content()

    def RetrieveInternalContent(self, call: MethodCall) -> Any:
        call.caller.require("System.View", self.ref)
        return internal_content(self._nfc)

    def CurrentTime(self, call: MethodCall) -> Any:
        return self.site.world.now()


class FileManager(ManagedObject):
    """FileManager without methods; clients only check that it exists."""

    kind = vim.FileManager


def render_about(api_version: str, is_vcenter: bool, instance_uuid: str) -> Any:
    """Return the AboutInfo for an API version such as 8.0.3.0."""
    version = ".".join([*api_version.split("."), "0", "0"][:3])
    name = "VMware vCenter Server" if is_vcenter else "VMware ESXi"
    return vim.AboutInfo(
        name=name,
        fullName=f"{name} {version} build-0 (vsim)",
        vendor="VMware, Inc.",
        version=version,
        build="0",
        osType="linux-x64" if is_vcenter else "vmnix-x86",
        productLineId="vpx" if is_vcenter else "embeddedEsx",
        apiType="VirtualCenter" if is_vcenter else "HostAgent",
        apiVersion=api_version,
        instanceUuid=instance_uuid if is_vcenter else None,
    )
