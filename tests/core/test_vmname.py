"""The VM that a name means, against a linear search."""

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import VmId
from cbtfs.core.manifest import Vm
from cbtfs.core.names import encode_name
from cbtfs.core.vmname import Capture, NamedVm, VmNames, names_of

NAMES = st.sampled_from(["web1", "web2", "web1-old", "a@b", "c:d/e*", "web1~aaaaaaaa"])
NAMES |= st.sampled_from(["deadbeef", "x" * 300, "a" * 32, "latest"])
IDS = st.integers(0, 7).map(lambda n: VmId(("aaaaaaaa" if n % 2 else f"{n:08x}") + f"{n:024x}"))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[VmId, str]]:
    """Generate captures in order, each of a VM under a name."""
    return draw(st.lists(st.tuples(IDS, NAMES), max_size=12))


def _names(history: list[tuple[VmId, str]], *, is_numbered: bool = True) -> VmNames:
    captures: dict[VmId, dict[str, Capture]] = {}
    now: dict[VmId, str] = {}
    for order, (vm, name) in enumerate(history, 1):
        # Clocks run backwards, but numbered captures do not depend on clocks.
        committed = -order if is_numbered else order
        mine = captures.setdefault(vm, {})
        mine[name] = Capture(is_numbered, order if is_numbered else len(mine) + 1, committed)
        now[vm] = name
    return names_of(
        NamedVm(Vm(vm, now[vm], encode_name(now[vm])), mine) for vm, mine in captures.items()
    )


def _meant(history: list[tuple[VmId, str]], name: str) -> VmId | None:
    """Return the VM captured last under *name*: of those that have it now, else of all."""
    now = dict(history)
    bears = [vm for vm, captured in history if captured == name and now[vm] == name]
    bore = [vm for vm, captured in history if captured == name]
    return bears[-1] if bears else bore[-1] if bore else None


@given(histories(), NAMES, st.booleans())
def test_a_name_means_the_vm_captured_last_under_it(
    history: list[tuple[VmId, str]], name: str, is_numbered: bool
) -> None:
    names = _names(history, is_numbered=is_numbered)
    labels = {*names.labels.values(), *names.directories.values()}
    expected = _meant(history, name)
    meant = names.find(name)

    if expected is not None and (dict(history)[expected] == name or name not in labels):
        if meant is None or meant.vm.id != expected:
            assert "~" in name  # a name that reads like the name of an earlier holder
            assert dict(history)[expected] != name
    elif expected is None and "~" not in name and name not in labels:
        assert meant is None


@given(histories())
def test_every_vm_has_a_label_and_a_directory_of_its_own_that_mean_it(
    history: list[tuple[VmId, str]],
) -> None:
    names = _names(history)

    for table in (names.labels, names.directories):
        assert len(set(table.values())) == len(table) == len(names.named_vms)
        for vm, label in table.items():
            meant = names.find(label)
            assert meant is not None
            assert meant.vm.id == vm
    assert all(
        len(directory.encode()) <= 255 and "/" not in directory
        for directory in names.directories.values()
    )


@given(histories())
def test_an_id_finds_its_vm_unless_it_is_a_name(history: list[tuple[VmId, str]]) -> None:
    names = _names(history)
    for named in names.named_vms:
        if any(named.vm.id in other.captures for other in names.named_vms):
            continue
        assert names.find(named.vm.id) is named


def test_the_four_cases_of_the_issue() -> None:
    a, b = VmId("a" * 32), VmId("b" * 32)

    renamed = _names([(a, "web1"), (a, "web1-old"), (b, "web1")])
    assert renamed.labels == {a: "web1-old", b: "web1"}
    assert renamed.find("web1~aaaaaaaa") is renamed.holders["web1-old"]

    not_yet_captured = _names([(a, "web1"), (b, "web1")])
    assert not_yet_captured.labels == {a: "web1~aaaaaaaa", b: "web1"}
    assert not_yet_captured.directories == not_yet_captured.labels

    arrived = _names([(a, "web1"), (a, "web1-prod"), (b, "web1-prod")])
    assert arrived.labels == {a: "web1-prod~aaaaaaaa", b: "web1-prod"}
    former = arrived.find("web1")
    assert former is not None
    assert former.vm.id == a


def test_a_capture_with_a_wrong_clock_does_not_keep_a_name_forever() -> None:
    a, b = VmId("a" * 32), VmId("b" * 32)
    names = names_of(
        [
            NamedVm(Vm(a, "web1", "web1"), {"web1": Capture(True, 1, 4_000_000_000_000_000)}),
            NamedVm(Vm(b, "web1", "web1~b"), {"web1": Capture(True, 2, 1_700_000_000_000_000)}),
        ]
    )

    assert names.holders["web1"].vm.id == b


def test_points_of_an_older_program_are_older_than_those_with_numbers() -> None:
    a, b = VmId("a" * 32), VmId("b" * 32)
    names = names_of(
        [
            NamedVm(Vm(a, "web1", "web1"), {"web1": Capture(False, 900, 1_900_000_000_000_000)}),
            NamedVm(Vm(b, "web1", "web1~b"), {"web1": Capture(True, 901, 1_700_000_000_000_000)}),
        ]
    )

    assert names.holders["web1"].vm.id == b


def test_patterns_match_labels_and_present_names() -> None:
    names = _names([(VmId("a" * 32), "web1"), (VmId("b" * 32), "web1"), (VmId("c" * 32), "db")])

    assert [match.vm.id[0] for match in names.matching("web*")] == ["b", "a"]
    assert [match.vm.id[0] for match in names.matching("*~*")] == ["a"]
    assert [match.vm.id[0] for match in names.matching("*")] == ["c", "b", "a"]
    assert names.matching("mail*") == []
