"""AuthorizationManager: the privileges of users and sessions."""

from typing import Any

from tools.vsim.api.base import ClientSession, ManagedObject, MethodCall
from tools.vsim.fault import Fault, MoRef
from tools.vsim.inventory import UserEntry
from tools.vsim.soap.vmodl import managed_object, vim


class AuthorizationManager(ManagedObject):
    kind = vim.AuthorizationManager

    def _user(self, name: str) -> UserEntry:
        user = self.site.world.users.get(name)
        if user is None:
            raise Fault("vim.fault.UserNotFound", f"User {name} was not found.", principal=name)
        return user

    def _session(self, key: str) -> ClientSession:
        for session in self.site.sessions:
            if session.key == key:
                return session
        raise Fault("vim.fault.NotFound", "The session does not exist.")

    def HasPrivilegeOnEntities(
        self, call: MethodCall, entity: list[Any], sessionId: str, privId: list[str] | None
    ) -> Any:
        session = self._session(sessionId)
        return [
            vim.AuthorizationManager.EntityPrivilege(
                entity=member,
                privAvailability=[
                    vim.AuthorizationManager.PrivilegeAvailability(
                        privId=privilege, isGranted=session.allows(privilege)
                    )
                    for privilege in privId or ()
                ],
            )
            for member in entity
        ]

    def HasPrivilegeOnEntity(
        self, call: MethodCall, entity: Any, sessionId: str, privId: list[str] | None
    ) -> list[bool]:
        session = self._session(sessionId)
        return [session.allows(privilege) for privilege in privId or ()]

    def FetchUserPrivilegeOnEntities(
        self, call: MethodCall, entities: list[Any], userName: str
    ) -> Any:
        user = self._user(userName)
        probe = ClientSession("", user, self.site.world.now(), 0.0)
        granted = [privilege for privilege in PRIVILEGES if probe.allows(privilege)]
        return [
            vim.AuthorizationManager.UserPrivilegeResult(
                entity=managed_object(MoRef(type(entity).__name__, entity._moId)),
                privileges=granted,
            )
            for entity in entities
        ]


PRIVILEGES = (
    "System.Anonymous",
    "System.View",
    "System.Read",
    "Global.DisableMethods",
    "Global.EnableMethods",
    "Global.Licenses",
    "Global.LogEvent",
    "Datastore.Browse",
    "Datastore.FileManagement",
    "Resource.ColdMigrate",
    "Resource.HotMigrate",
    "Sessions.TerminateSession",
    "Sessions.ValidateSession",
    "VApp.Export",
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.DiskExtend",
    "VirtualMachine.Config.DiskLease",
    "VirtualMachine.Config.RemoveDisk",
    "VirtualMachine.Config.Rename",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Config.UpgradeVirtualHardware",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.Reset",
    "VirtualMachine.Interact.Suspend",
    "VirtualMachine.Provisioning.DiskRandomAccess",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RenameSnapshot",
    "VirtualMachine.State.RevertToSnapshot",
)
