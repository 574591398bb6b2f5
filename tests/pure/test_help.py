"""`--help`: examples first, of every command, and each of them is a command line that parses. Completion answers."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from tests.kit.commands import COMMANDS, parse
from vigil.cli import with_commands
from vigil.cli.examples import PROGRAM, examples_of


def help_of(name: str) -> list[str]:
    outcome = CliRunner().invoke(with_commands(), [*name.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert outcome.exit_code == 0
    return [line.strip() for line in outcome.output.splitlines() if line.strip()]


def shown_examples(name: str) -> list[str]:
    """Those that the help has at its top, right behind the usage."""
    lines = help_of(name)
    assert lines[0].startswith("Usage:")
    assert lines[1] == "Examples:", f"the help of {name!r} does not begin with examples"
    return [line for line in lines[2:] if line.startswith(PROGRAM)]


def called(line: str) -> str:
    """The command that this line calls, once it has parsed; up to a pipe."""
    words = shlex.split(line)
    return parse(words[: words.index("|")] if "|" in words else words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_begins_with_examples_that_parse(name: str) -> None:
    found = shown_examples(name)
    assert found
    for example in found:
        assert called(example).startswith(name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan --userz 5", "No such option"),
        ("run --max-weight none", "valid integer"),
        ("users list --state lost", "not one of"),
        ("walk", "walk"),
    ],
)
def test_the_check_would_notice_an_example_that_does_not_parse(line: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        called(f"{PROGRAM} {line}")


def test_what_is_listed_of_a_command_is_what_it_does() -> None:
    listed = " ".join(help_of(""))
    for command in COMMANDS.values():
        assert command.short_help is None or "Examples" not in command.short_help
    assert "Fetch the fills of all known users" in listed


def test_examples_are_taken_from_their_paragraph_alone() -> None:
    text = "Do it, as `that` does.\n\nExamples: `do it` · `vigil-backfill do\n    --so`\n\nMore of `this`."
    assert examples_of(text) == ["vigil-backfill do it", "vigil-backfill do --so"]


@pytest.mark.parametrize(
    ("shell", "how"),
    [
        ("bash", {"COMP_WORDS": "vigil-backfill {}", "COMP_CWORD": "{n}"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "vigil-backfill {}"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "vigil-backfill {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_completion_knows_commands_and_states(shell: str, how: dict[str, str]) -> None:
    def complete(line: str) -> str:
        asked = {name: text.format(line, n=len(line.split(" "))) for name, text in how.items()}
        given = {**asked, "_VIGIL_BACKFILL_COMPLETE": f"complete_{shell}"}
        return CliRunner().invoke(with_commands(), [], prog_name=PROGRAM, env=given).output

    assert "retry" in complete("ret")
    answer = complete("users list --state ")
    assert all(state in answer for state in ("pending", "claimed", "completed", "failed"))
