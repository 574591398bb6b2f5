"""What there is is documented, and what is documented is there: commands, options, settings, exit codes, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.commands import COMMANDS, flags_of, parse, reference
from tests.kit.database import REPOSITORY
from tests.kit.documents import PAGES, Line, anchors, blocks, commands, lines, links, prose, spans, tables
from vigil import errors
from vigil.cli.examples import PROGRAM
from vigil.settings import Settings

DOCS = REPOSITORY / "docs"
EXAMPLE = (REPOSITORY / ".env.example").read_text("utf-8")
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
LINES = [line for page in PAGES for line in lines(page)]
ALL_FLAGS = {flag for name in COMMANDS for flag in flags_of(name)}

FOREIGN_FLAGS = {"--data-only", "--build-arg", "--volumes", "--kills", "--model", "--lengths", "--numprocesses"}
"""Of other programs that are spoken of: pg_restore, docker, the benchmarks, pytest."""

UNITS = {"seconds": "seconds", "bytes": "bytes", "port": "port", "weight_per_minute": "weight", "rows": "rows"}
"""What the comment of a setting must say whose name ends so."""


def called(span: str) -> tuple[str, list[str]] | None:
    """The command that stands in backticks, with its words; None: it is something else."""
    words = span.removeprefix(f"{PROGRAM} ").split(" | ")[0].split()
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS and name:
            return name, words
    return None


def wrong_flags(text: str) -> list[str]:
    """Options in backticks that do not exist, or not of the command before them."""
    wrong = []
    for span in spans(text):
        flags = re.findall(r"(?<![\w-])--[a-z][\w-]*", span)
        if span.startswith(("-", PROGRAM)) or called(span) is not None:
            found = called(span)
            there = ALL_FLAGS | FOREIGN_FLAGS if found is None else flags_of(found[0])
            wrong += [f"{flag} in `{span}`" for flag in flags if flag not in there]
    return wrong


def dead_links(page: Path, text: str) -> list[str]:
    """Links that lead nowhere, be it the file or the heading that is not there."""
    dead = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        there = target.exists() and (not anchor or anchor in anchors(target.read_text("utf-8")))
        dead += [] if there else [link]
    return dead


def comment_of(variable: str, text: str) -> str:
    """The comment above a variable of `.env.example`, of those before it as well where it begins with dots."""
    block = re.search(rf"((?:^# .*\n)+)#?{variable}=", text, flags=re.MULTILINE)
    return "" if block is None else " ".join(line.removeprefix("# ") for line in block[1].splitlines())


def told_poorly(name: str, variable: str, text: str) -> str | None:
    """What the comment above a setting lacks."""
    comment = comment_of(variable, text)
    if len(comment.split()) < 5:
        return f"{variable}: {comment!r} does not tell what it is for"
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
    return None if unit in comment.lower() else f"{variable}: its comment does not tell the unit, {unit}"


def test_every_command_and_every_option_is_on_the_page_of_commands_as_it_is() -> None:
    page = (DOCS / "commands.md").read_text("utf-8")
    assert page == reference(), "make it again: python -m tests.kit.commands > docs/commands.md"
    listed = {heading: " ".join(row[0] for row in rows) for heading, rows in tables(page).items()}
    for name, command in COMMANDS.items():
        if not hasattr(command, "commands"):
            assert f"\n## {name}\n" in page
            assert flags_of(name) - {"--help", "-h", "--debug"} == set(re.findall(r"`(-[\w-]+)`", listed.get(name, "")))
    assert {flag for flag in flags_of("") - {"--help", "-h"} if f"`{flag}`" not in page} == set()


def test_every_command_is_in_the_readme() -> None:
    readme = " ".join(spans(TEXTS[REPOSITORY / "README.md"]))
    assert [name for name in COMMANDS if not re.search(rf"(?<![\w-]){name}(?![\w-])", readme)] == []


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_line_of_the_documents_parses(line: Line) -> None:
    parse(list(line.words))


def test_the_command_lines_are_found() -> None:
    assert {line.page.name for line in LINES} > {"README.md", "verify.md", "plan.md", "sources.md", "docker.md"}
    assert len(LINES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_option_is_spoken_of_that_does_not_exist(page: Path) -> None:
    assert wrong_flags(TEXTS[page]) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page, TEXTS[page]) == []


def test_every_page_is_in_the_index_and_no_page_stands_alone() -> None:
    listed = {link.partition("#")[0] for link in links(TEXTS[DOCS / "README.md"])}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} - listed == set()
    assert "docs/README.md" in links(TEXTS[REPOSITORY / "README.md"])


def test_every_make_target_spoken_of_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    spoken = {
        words[1]
        for text in TEXTS.values()
        for words in [
            *(words for block in blocks(text, "") for words in commands(block)),
            *(span.split() for span in spans(text)),
        ]
        if words[0] == "make" and len(words) > 1
    }
    assert {"demo", "test", "setup"} <= spoken
    assert spoken - targets == set()


def test_every_variable_spoken_of_is_a_setting_or_the_compose_files() -> None:
    known = {f"VIGIL_{name.upper()}" for name in Settings.model_fields} | {"VIGIL_TEST_DATABASE_URL"}
    compose = (REPOSITORY / "docker-compose.yml").read_text("utf-8")
    known |= set(re.findall(r"VIGIL_[A-Z_]+", compose))
    spoken = {name for text in TEXTS.values() for name in re.findall(r"VIGIL_[A-Z_]*[A-Z]", text)}
    assert len(spoken) > 20
    assert spoken - known == set()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_in_the_example_what_it_is_for_and_its_unit(name: str) -> None:
    variable = "HL_API_REQUESTS_PER_MINUTE" if name == "requests_per_minute" else f"VIGIL_{name.upper()}"
    assert told_poorly(name, variable, EXAMPLE) is None


def test_every_exit_code_is_in_the_table_in_the_readme_and_in_the_help() -> None:
    codes = {str(code) for name, code in vars(errors).items() if name.startswith("EXIT_")}
    rows = tables(TEXTS[DOCS / "exit-codes.md"])["Exit codes"]
    assert {code for row in rows for code in re.findall(r"\d+", row[0])} == codes
    for text in (TEXTS[REPOSITORY / "README.md"], str(COMMANDS[""].epilog)):
        (sentence,) = re.findall(r"Exit codes: .*?(?=\n\n|$)", text, flags=re.DOTALL)
        assert {code for code in codes if not re.search(rf"\b{code}\b", sentence)} == set()


def test_the_checks_would_notice() -> None:
    assert wrong_flags("`run --limit 5`, `--json`, `users list --state failed`, `pg_restore --data-only`") == []
    assert wrong_flags("`run --addresses 5` and `--limits`") == [
        "--addresses in `run --addresses 5`",
        "--limits in `--limits`",
    ]
    assert wrong_flags("`vigil-backfill users add --json`") == ["--json in `vigil-backfill users add --json`"]
    here = DOCS / "README.md"
    assert dead_links(here, "[a](plan.md#disk) [b](plan.md#no) [c](none.md) [d](https://none.example)") == [
        "plan.md#no",
        "none.md",
    ]
    example = "# Longest wait of it, in hours.\n#VIGIL_DRAIN_SECONDS=20\n# Short.\n#VIGIL_LANE="
    assert "unit" in str(told_poorly("drain_seconds", "VIGIL_DRAIN_SECONDS", example))
    assert "what it is for" in str(told_poorly("lane", "VIGIL_LANE", example))
    with pytest.raises(Exception, match="no command"):
        parse([PROGRAM, "walk"])
    (line,) = lines(
        here, "```\nA=1 vigil-backfill status --json 2>&1 >/dev/null | jq -r '.a |\n .b'   # not `this`\n```\n"
    )
    assert line.words == (PROGRAM, "status", "--json")
    assert line.variables == (("A", "1"),)
    assert line.into == ("jq", "-r", ".a |\n .b")
    assert "gone" not in prose("```\ngone\n```\nhere")
