"""The language counter locates constructions and compares counts with limits."""

from pathlib import Path

from tools.language.__main__ import problems, rate
from tools.language.constructions import CONSTRUCTIONS, find
from tools.language.prose import Prose, c_prose, long_lines, plain_prose, python_prose

MODULE = '''"""What a run leaves."""

# Told of
# the end.

NOTE = f"it {NOTE} stands anew and here"  # short
"""A docstring of an attribute."""
'''


def test_each_construction_is_found_in_an_example() -> None:
    examples = {
        "clause as subject": "What is not known is read.",
        "what as object": "A list of what changed.",
        "anew, afresh": "The catalog is made anew.",
        "stand": "The file stands there.",
        "tell": "It tells the caller.",
        "mend": "The frame is mended.",
        "whom, thereof": "Name the point whom it hurts.",
        "of it, of them": "Read the rest of it.",
        "let, let go": "Let go of the lock.",
        "be had, so many": "No lock is to be had.",
    }

    assert examples.keys() == CONSTRUCTIONS.keys()
    for name, text in examples.items():
        assert [hit for hit, _ in find(text)] == [name]


def test_plain_english_has_no_constructions() -> None:
    text = "Return the extents that changed since the base. Raises SourceError if a page is odd."

    assert find(text) == []


def test_prose_of_a_module(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)

    notes, messages = python_prose(path, name="module.py")

    assert sorted(note.text for note in notes) == [
        "A docstring of an attribute.",
        "Told of\nthe end.",
        "What a run leaves.",
        "short",
    ]
    assert [(message.line, message.text) for message in messages] == [
        (6, "it  stands anew and here")
    ]


def test_prose_of_c_and_markdown(tmp_path: Path) -> None:
    source, page = tmp_path / "a.c", tmp_path / "a.md"
    source.write_text('int a; /* one\n * two */\nchar *b = ""; // three\n')
    page.write_text("A line.\n\n```sh\nwhat stands\n```\n\nThe end.\n")

    comments = c_prose(source, name="a.c")
    paragraphs = plain_prose(page, name="a.md")

    assert [(comment.line, comment.text.split()) for comment in comments] == [
        (1, ["one", "two", "*/"]),
        (3, ["three"]),
    ]
    assert [(paragraph.line, paragraph.text.strip()) for paragraph in paragraphs] == [
        (1, "A line."),
        (7, "The end."),
    ]


def test_limits_only_go_down() -> None:
    assert problems({"docs": 20}, {"docs": 20}, {"docs": 20}) == []
    assert "limit 10" in problems({"docs": 11}, {"docs": 10}, {})[0]
    assert "committed limit 20" in problems({"docs": 21}, {"docs": 21}, {"docs": 20})[0]
    assert "--lower" in problems({"docs": 20}, {"docs": 30}, {"docs": 30})[0]


def test_a_rate_is_per_ten_thousand_words() -> None:
    piece = Prose("a", 1, "It stands. " + "word " * 998)

    assert rate([piece] * 10) == 10
    assert rate([piece]) == 0


def test_long_lines_of_prose_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    long = "word " * 21
    path.write_text(f"{'a' * 100}\n| {long} |\n```\n{long}\n```\n{long}\n", "utf-8")

    assert long_lines(path, name="page.md") == ["page.md:6: 105 columns: wrap at 100"]
