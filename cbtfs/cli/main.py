"""The `cbtfs` command: global options, and the translation of errors to exit codes."""

import errno
import gc
import logging
import os
import signal
import stat
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile, zip_longest
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, NamedTuple

import typer

from cbtfs import __version__
from cbtfs.cli.lazy_commands import COMMANDS, LazyCommands
from cbtfs.cli.options.context import options_of
from cbtfs.cli.options.defaults import Defaults, Overrides, option_defaults
from cbtfs.cli.report.journal import gravity, is_journal
from cbtfs.cli.report.output import begin_output, emit_error, say
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, ExitCode, UsageError
from cbtfs.shortage import SHORTAGES, explain

_NO_THREAD: Final = "can't start new thread"
"""Text of the RuntimeError that Python raises if the system refuses a thread."""


def _exit_codes() -> str:
    """Return the epilog of the help, which lists the exit codes in two columns."""
    codes = [f"{code:4}  {code.summary}" for code in ExitCode]
    half = (len(codes) + 1) // 2
    rows = zip_longest(codes[:half], codes[half:], fillvalue="")
    table = "\n".join(f"{left:<39} {right}".rstrip() for left, right in rows)
    return f"\b\nExit codes:\n{table}\n\n\b\nExample:\n  cbtfs --repo /srv/backup list"


app = typer.Typer(
    cls=LazyCommands,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Terminated(BaseException):
    """Raised by SIGTERM and SIGHUP, so that resources are closed during the exit."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """Exit code that a shell reports for the signal."""
        return 128 + self.signum


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"cbtfs {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=_exit_codes())
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Back up virtual disks, and read every restore point as a raw file.

    Virtual machines are captured with Changed Block Tracking, disk images by change lists, bitmaps
    or digests. All restore points are in one deduplicated repository; any of them can be mounted,
    restored or forgotten independently of the others. The options below, except --version, work in
    front of a command and behind it.
    """
    if context.invoked_subcommand is None and options_of(context).is_json:
        raise UsageError("no command given: see 'cbtfs --help'")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def _terminate(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGHUP:
        _leave_terminal()
    raise Terminated(signum)


def _leave_terminal() -> None:
    """Redirect terminal output to /dev/null: cleanup must not fail if the terminal is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        try:
            is_terminal = stat.S_ISCHR(os.fstat(stream).st_mode)  # isatty fails after a hang-up
        except OSError:
            continue  # closed
        if is_terminal:
            os.dup2(nowhere, stream)
    os.close(nowhere)


class _OneLine(logging.Formatter):
    """Formats a record as printable lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).splitlines())


class _Filed(_OneLine):
    """Formats a record for the journal, with its priority."""

    def format(self, record: logging.LogRecord) -> str:
        before = gravity(record.levelno)
        return "\n".join(before + line for line in super().format(record).splitlines())


def _set_up_log() -> None:
    stderr = logging.StreamHandler()
    formatter = _Filed if is_journal(sys.stderr.fileno()) else _OneLine
    stderr.setFormatter(formatter("cbtfs: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[stderr])
    # It logs what a pool's thread raises, which the pool's owner raises again.
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)


def main(arguments: Sequence[str], overrides: Overrides | None = None) -> int:
    """Run one command and return its exit code.

    With `--json`, an error is also a document on standard output. *overrides* are defaults of
    options, which win over those of the configuration.
    """
    begin_output()
    defaults = Defaults()
    try:
        defaults = option_defaults(arguments, overrides)
        code = app(
            args=arguments,
            prog_name="cbtfs",
            standalone_mode=False,
            default_map=defaults.by_command(COMMANDS),
        )
        if code != ExitCode.INTERRUPTED:
            return code if isinstance(code, int) else 0
        failure = _INTERRUPTED  # Typer turns a KeyboardInterrupt into this code
    except BaseException as exc:
        failure = _failure(exc)
    if failure.code == ExitCode.USAGE and (origin := defaults.origin(failure.message, arguments)):
        failure = failure._replace(message=f"{failure.message}; the value is from {origin}")
    say(failure.message)
    if is_json(arguments):
        emit_error(failure.code, failure.message, failure.candidates)
    return failure.code


def is_json(arguments: Sequence[str]) -> bool:
    """Return whether *arguments* ask for JSON. They may be invalid."""
    return "--json" in takewhile(lambda argument: argument != "--", arguments)


class _Failure(NamedTuple):
    """The end of a command that failed."""

    code: int
    message: str
    candidates: Sequence[str] = ()


_INTERRUPTED: Final = _Failure(ExitCode.INTERRUPTED, "interrupted")


def _failure(exc: BaseException) -> _Failure:
    """Return how an exception is reported. An exception that asks for an exit is raised again."""
    match exc:
        case CbtfsError():
            return _Failure(exc.exit_code, str(exc), exc.candidates)
        case typer.TyperException():
            near = getattr(exc, "possibilities", None) or ()
            return _Failure(ExitCode.USAGE, _usage_line(exc), near)
        case KeyboardInterrupt() | typer.Abort():
            return _INTERRUPTED
        case Terminated():
            by = "" if exc.signum == signal.SIGTERM else " by SIGHUP"
            return _Failure(exc.exit_code, f"terminated{by}")
        case MemoryError():
            return _Failure(CbtfsError.exit_code, explain(errno.ENOMEM))
        case OSError():
            return _failed_call(exc)
        case Exception() if str(exc) == _NO_THREAD:
            return _Failure(CbtfsError.exit_code, f"{exc}: {explain(errno.ENOMEM)}")
        case Exception():
            return _bug(exc)
        case _:
            raise exc


def _bug(exc: Exception) -> _Failure:
    traceback.print_exception(exc)
    return _Failure(ExitCode.BUG, "this is a bug: please report it with the lines above")


def _failed_call(exc: OSError) -> _Failure:
    """Return the report of a system error that no other part of the program handled."""
    where = "" if exc.filename is None else f" {os.fsdecode(exc.filename)}"
    if exc.errno in SHORTAGES:
        message = f"cannot open{where or ' a file'}: {explain(exc.errno)}"
        return _Failure(CbtfsError.exit_code, message)
    if exc.errno in (errno.EACCES, errno.EPERM) and exc.filename is not None:
        from cbtfs.store.owner import denied

        error = denied(exc, Path(os.fsdecode(exc.filename)))
        return _Failure(error.exit_code, str(error))
    from cbtfs.store.backend.base import NoReply

    if isinstance(exc, NoReply):
        return _Failure(CbtfsError.exit_code, exc.strerror or str(exc))
    return _bug(exc)


def _usage_line(exc: typer.TyperException) -> str:
    text = " ".join(exc.format_message().split())
    context = getattr(exc, "ctx", None)
    command = "cbtfs" if context is None else context.command_path
    return f"{text.rstrip('.')}: see '{command} --help'"


def run() -> None:
    """The entry point of the program."""
    signal.signal(signal.SIGTERM, _terminate)
    # Keep SIGHUP ignored under nohup, as Python keeps SIGINT ignored in background jobs.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _terminate)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _set_up_log()
    code = main(sys.argv[1:])
    gc.freeze()  # else the interpreter searches all objects for cycles: a sixth of a short command
    sys.exit(code)
