"""vsim: a vSphere simulator with real disks, change tracking and fault injection."""

from tools.vsim.inventory import (
    DatastoreEntry,
    DiskEntry,
    HostEntry,
    Inventory,
    MachineEntry,
    ServerEntry,
    UserEntry,
    load_inventory,
    parse_inventory,
)
from tools.vsim.knobs import CbtKnobs, DataKnobs, Knobs, SessionKnobs, SnapshotKnobs, TaskKnobs
from tools.vsim.rules import CallRule, ReadRule
from tools.vsim.simulator import Listen, Simulator

__all__ = [
    "CallRule",
    "CbtKnobs",
    "DataKnobs",
    "DatastoreEntry",
    "DiskEntry",
    "HostEntry",
    "Inventory",
    "Knobs",
    "Listen",
    "MachineEntry",
    "ReadRule",
    "ServerEntry",
    "SessionKnobs",
    "Simulator",
    "SnapshotKnobs",
    "TaskKnobs",
    "UserEntry",
    "load_inventory",
    "parse_inventory",
]
