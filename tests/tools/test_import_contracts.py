"""Each library has one owner; a package that is added later may not import it."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import grimp
import pytest
from importlinter.contracts.protected import ProtectedContract

PROJECT: Final = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
CONTRACTS: Final = [
    contract
    for contract in PROJECT["tool"]["importlinter"]["contracts"]
    if contract["type"] == "protected"
]
OWNERS: Final = [
    pytest.param(contract, module, id=module)
    for contract in CONTRACTS
    for module in contract["protected_modules"]
]
NEWCOMERS: Final = ("cbtfs.newcomer", "cbtfs.source.newcomer", "cbtfs.source.transport.newcomer")


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("cbtfs", "tools", include_external_packages=True, cache_dir=None)


def is_kept(contract: Mapping[str, Any], graph: grimp.ImportGraph) -> bool:
    options = {key: value for key, value in contract.items() if key not in ("name", "type")}
    return bool(ProtectedContract(contract["name"], {}, options).check(graph, False).kept)


@pytest.mark.parametrize(("contract", "library"), OWNERS)
def test_only_the_owner_imports_the_library(contract: Mapping[str, Any], library: str) -> None:
    graph = imports()

    assert graph.find_modules_that_directly_import(library)
    assert is_kept(contract, graph)


@pytest.mark.parametrize("newcomer", NEWCOMERS)
@pytest.mark.parametrize(("contract", "library"), OWNERS)
def test_a_new_module_may_not_import_the_library(
    contract: Mapping[str, Any], library: str, newcomer: str
) -> None:
    graph = imports()
    graph.add_module(newcomer)
    graph.add_import(importer=newcomer, imported=library)
    try:
        assert not is_kept(contract, graph)
    finally:
        graph.remove_module(newcomer)


def test_the_simulator_and_the_transports_share_no_module() -> None:
    """The NFC server and client come from two authors: an error of one must not hide in both."""
    graph = imports()
    server = graph.find_upstream_modules("tools.vsim", as_package=True)
    clients = graph.find_upstream_modules("cbtfs.source.transport", as_package=True)

    assert "tools.vsim.nfc.wire" in graph.modules
    assert not {name for name in server if name.partition(".")[0] == "cbtfs"}
    assert not {name for name in clients if name.partition(".")[0] == "tools"}


def test_every_dependency_has_an_owner() -> None:
    names = {"pyvmomi": "pyVmomi"}
    dependencies = [line.split(">")[0] for line in PROJECT["project"]["dependencies"]]
    owned = {module for contract in CONTRACTS for module in contract["protected_modules"]}

    assert {names.get(name, name) for name in dependencies} <= owned
