"""Help pages have one form: a line, a paragraph on consequences, an example."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cbtfs.cli.main import app


def _commands(name: str, command: Any) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    pages = [] if name == "cbtfs" else [(name, command)]
    return pages + [
        page for n, child in children.items() for page in _commands(f"{name} {n}", child)
    ]


PAGES = _commands("cbtfs", typer.main.get_command(app))


@pytest.mark.parametrize(("name", "command"), PAGES, ids=[name for name, _ in PAGES])
def test_a_help_page_has_a_line_a_paragraph_and_an_example(name: str, command: Any) -> None:
    summary, _, rest = command.help.partition("\n\n")

    assert "\n" not in summary
    assert len(summary) <= 80
    assert summary.endswith(".")
    assert len(rest) > 40
    assert "Example:" in command.epilog


def test_a_group_of_options_belongs_to_each_command_that_takes_it() -> None:
    for arguments in (["ingest", "vsphere"], ["cbt", "status"], ["doctor"]):
        page = CliRunner().invoke(app, [*arguments, "--help"]).output

        assert "--password-file" in page
        assert "--thumbprint" in page


@pytest.mark.parametrize("text", ["5x", "6mo", "-1", "inf", "nan"])
def test_an_invalid_duration_is_a_usage_error(text: str) -> None:
    shown = CliRunner().invoke(app, ["--repo", "/nonexistent", "prune", "--lock-wait", text])

    assert shown.exit_code == 2
    assert "use e.g. 90s, 30m, 4h or 1d" in " ".join(shown.output.replace("│", " ").split())
