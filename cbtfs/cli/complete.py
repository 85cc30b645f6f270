"""Shell completion of VMs, points and disks from the catalog.

Typer completes options and commands. Names in a repository are untrusted, and shells evaluate
completions: a name with characters that a shell interprets is escaped or omitted.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import decode_manifest
from cbtfs.core.settings import decode_settings
from cbtfs.core.vmname import NamedVm, VmNames
from cbtfs.errors import CbtfsError, KeyUnavailable
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.naming import present_names, vm_names
from cbtfs.store.catalog.view import View
from cbtfs.store.files import load_file

_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "list": ("vm",),
    "show": ("point",),
    "protect": ("point",),
    "tag": ("point",),
    "blame": ("point", "disk"),
    "bisect": ("vm",),
    "prove": ("point", "..."),
    "extents": ("point", "disk"),
    "diff": ("point", "point", "disk"),
    "restore": ("point", "disk"),
    "stats": ("point",),
    "forget": ("exact", "..."),
}
"""Kind of each argument of a command; "..." repeats the last kind."""
_FLAGS: Final = frozenset(
    {"--json", "--force", "--keep-going", "--dry-run", "--prune", "--off", "--help", "-h"}
    | {"--quiet", "-q", "--verbose", "-v", "-vv"}
)
"""Options without a value. All others take the next word."""
_REPO: Final = ("--repo", "-r")
_KEYWORDS: Final = ("latest", "good", "proven")
_BASH_BREAKS: Final = "@:="
"""Word separators of bash. A completion replaces only the text after the last one."""
_SHELL_SAFE: Final = frozenset("._@:~+-,%=/")
_SETTINGS_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """A command line up to the cursor."""

    words: Sequence[str]
    """Words before the completed one, without the program's name."""
    word: str


def answer(environment: Mapping[str, str]) -> str | None:
    """Return the completions for the shell's script; None if the word is not a name.

    The result is empty if the repository cannot be opened: completion must not print errors.
    """
    shell = environment.get("_CBTFS_COMPLETE", "").removeprefix("complete_")
    line = _line(shell, environment)
    asked = None if line is None else _asked(line)
    if line is None or asked is None:
        return None
    try:
        path = _repository(line.words, environment)
        candidates = (
            [] if path is None else list(_names(_local(path, environment), *asked, line.word))
        )
    except (CbtfsError, OSError, ValueError):
        candidates = []
    return _format(shell, environment, line.word, candidates)


def _line(shell: str, environment: Mapping[str, str]) -> Line | None:
    if shell == "bash":
        words = _joined(
            environment.get("COMP_WORDS", "").split("\n"), int(environment.get("COMP_CWORD", 0))
        )
        return Line(words[1:-1], words[-1]) if len(words) > 1 else None
    if shell in ("zsh", "fish"):
        text = environment.get("_TYPER_COMPLETE_ARGS", "")
        try:
            words = shlex.split(text)
        except ValueError:
            return None
        if text.endswith(" "):
            words.append("")
        return Line(words[1:-1], words[-1]) if len(words) > 1 else None
    return None


def _joined(words: Sequence[str], current: int) -> list[str]:
    """Return the words up to the current one, with pieces such as `web01`, `@`, `la` joined."""
    joined: list[str] = []
    is_open = False
    for word in (*words, "")[: current + 1]:
        is_break = bool(word) and not word.strip(_BASH_BREAKS)
        plain = word.replace("\\", "")
        if joined and (is_break or is_open):
            joined[-1] += plain
        else:
            joined.append(plain)
        is_open = is_break
    return joined


def _asked(line: Line) -> tuple[str, Sequence[str]] | None:
    """Return the kind of the word and the arguments before it; None if it is not a name."""
    words, arguments = iter(line.words), list[str]()
    for word in words:
        if word.startswith("-") and word != "-":
            if word in _FLAGS or "=" in word or _is_attached(word):
                continue
            if next(words, None) is None:
                return None  # the word is an option's value
        else:
            arguments.append(word)
    kinds = _ARGUMENTS.get(arguments[0], ()) if arguments else ()
    if arguments[:1] == ["restore"] and any(w.split("=")[0] == "--all" for w in line.words):
        kinds = ("point", "...")
    at = len(arguments) - 1
    if line.word.startswith("-") or not kinds:
        return None
    if kinds[-1] == "...":
        return kinds[min(at, len(kinds) - 2)], arguments[1:]
    return (kinds[at], arguments[1:]) if at < len(kinds) else None


def _is_attached(word: str) -> bool:
    """Return whether *word* is -r with its value, as in -r/srv/backup."""
    return word.startswith("-r") and word != "-r"


def _repository(words: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    options = dict(pairwise(words))
    options |= dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    options |= {word[:2]: word[2:] for word in words if _is_attached(word)}
    for name in _REPO:
        if name in options:
            return Path(options[name]).expanduser()
    from cbtfs.config import load_config

    named = options.get("--config")
    config = load_config(None if named is None else Path(named).expanduser(), environment)
    keys = config.keys
    if keys.key_files or keys.command:
        from cbtfs.store.encryption.credentials import NO_CREDENTIALS, Credentials, use

        use(NO_CREDENTIALS, Credentials(keys.key_files, command=keys.command))
    return config.repo


def _local(path: Path, environment: Mapping[str, str]) -> Path:
    """Return the directory of a repository; of a bucket, that of the local state."""
    from cbtfs.store.backend.remote import address_in, state_directory

    url = address_in(path)
    return path if url is None else state_directory(url, environment)


def _names(path: Path, kind: str, before: Sequence[str], word: str) -> Iterator[str]:
    settings = decode_settings(load_file(path / "repository.json", _SETTINGS_BYTES))
    if settings.is_encrypted:
        _require_key(path)
    catalog = Catalog(path / "catalog", is_writable=False)
    try:
        with catalog.view() as view:
            candidates = _disks(view, before) if kind == "disk" else _points(view, kind, word)
            yield from sorted({name for name in candidates if name.startswith(word)})
    finally:
        catalog.close()


def _require_key(path: Path) -> None:
    """Raise KeyUnavailable unless a key file or a program gives the key.

    A passphrase takes a second, and the shell waits for the completion.
    """
    from cbtfs.store.encryption.credentials import credentials
    from cbtfs.store.encryption.ring import keys_of

    found = credentials()
    if not (found.key_files or found.command):
        raise KeyUnavailable("no key file was given")
    keys_of(path)


def _points(view: View, kind: str, word: str) -> Iterator[str]:
    """Yield VMs and, if only one VM matches, its points."""
    names = present_names(view)
    name, at, _ = word.rpartition("@")
    named = names.find(name) if at and kind != "vm" else None
    if named is not None:
        entries = view.entries_of(named.vm.id)
        yield from (f"{name}@{entry.name}" for entry in entries)
        yield from (f"{name}@{keyword}" for keyword in _KEYWORDS if kind == "point")
    labels = [_offered(names, named_vm) for named_vm in names.named_vms]
    matching = [label for label in labels if label.startswith(word)]
    yield from matching
    if len(matching) == 1 and kind != "vm":
        yield f"{matching[0]}@"


def _offered(names: VmNames, named: NamedVm) -> str:
    """Return the name of a VM for a shell: its directory name if the name is not printable."""
    label = names.labels[named.vm.id]
    return label if label.isprintable() else names.directories[named.vm.id]


def _disks(view: View, before: Sequence[str]) -> list[str]:
    """Return the labels of the named point, or of the last captured point of the VM."""
    point = _point(view, before[-1]) if before else None
    record = None if point is None else view.point(point)
    return [] if record is None else [disk.label for disk in decode_manifest(record.manifest).disks]


def _point(view: View, spec: str) -> PointId | None:
    name, at, which = spec.rpartition("@")
    names = present_names(view)
    named = (names.find(name) if at else None) or names.find(spec)
    if named is None:
        named = vm_names(view).find(name if at else spec)
    if named is None:
        ids = view.point_ids(spec) if spec and not spec.strip("0123456789abcdef") else []
        return ids[0] if len(ids) == 1 else None
    exact = (entry for entry in view.entries_of(named.vm.id) if entry.name == which)
    entry = next(exact, None) or view.newest_entry(named.vm.id)
    return None if entry is None else entry.point


def _format(
    shell: str, environment: Mapping[str, str], word: str, candidates: Iterable[str]
) -> str:
    names = [name for name in candidates if name.isprintable()]
    if shell == "bash":
        cut = max(word.rfind(character) for character in _BASH_BREAKS) + 1
        return "\n".join(_escaped(name[cut:]) for name in names)
    if shell == "zsh":
        plain = [n for n in names if all(c.isalnum() or c in _SHELL_SAFE for c in n)]
        quoted = " ".join('"' + name.replace(":", r"\\:") + '"' for name in plain)
        return f"_arguments '*: :(({quoted}))'" if plain else ""
    if environment.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        if not names:
            raise SystemExit(1)
        return ""
    return "\n".join(names)


def _escaped(name: str) -> str:
    """Return *name* with a backslash before each special character of bash."""
    return "".join(c if c.isalnum() or c in _SHELL_SAFE else f"\\{c}" for c in name)
