"""What the documents say that can be checked: command lines, SQL, links, names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit.database import REPOSITORY
from vigil.cli.examples import PROGRAM

PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "migrations" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
)

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}\S.*\n(?: {4}.*\n)*)", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SERVICE = "vigil"
"""The compose file's service that runs any command."""

ENDS = {"|", "||", "&", "&&", ";"}
REDIRECTIONS = {"<", ">", ">>", ">&"}


@dataclass(frozen=True)
class Line:
    """A command line of a page: its words up to a pipe, what stood before them, what they are piped into."""

    page: Path
    text: str
    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    into: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text}"


def prose(text: str) -> str:
    """A page without its code blocks."""
    return FENCED.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; those of none are shell, and so are indented ones."""
    found = [body for name, body in FENCED.findall(text) if name == language]
    if not language:
        found += [re.sub(r"^ {4}", "", body, flags=re.MULTILINE) for body in INDENTED.findall(prose(text))]
    return found


def lines(page: Path, text: str | None = None) -> Iterator[Line]:
    """Every line of the page's shell blocks that calls the program, by itself, behind a pipe or as the service."""
    for block in blocks(page.read_text("utf-8") if text is None else text, ""):
        found = list(commands(block))
        for words, following in zip(found, [*found[1:], []], strict=True):
            shown = " ".join(words)
            if words[:3] == ["docker", "compose", "run"] and SERVICE in words:
                yield Line(page, shown, (PROGRAM, *words[words.index(SERVICE) + 1 :]))
            elif PROGRAM in words:
                at = words.index(PROGRAM)
                given = [word.partition("=") for word in words[:at] if re.match(r"[A-Z_]+=", word)]
                variables = tuple((name, value) for name, _, value in given)
                into = tuple(following) if following[:1] == ["jq"] else ()
                yield Line(page, shown, tuple(words[at:]), variables, into)


def commands(block: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, without comments and redirections."""
    text = ""
    for line in block.splitlines():
        text = f"{text}\n{line}" if text else line
        try:
            lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            tokens = list(lexer)
        except ValueError:  # a quotation that goes on in the next line
            continue
        text = ""
        words: list[str] = []
        following = iter([*tokens, ";"])
        for token in following:
            if token in REDIRECTIONS:
                next(following)  # where it leads
                words = words[: -1 if words[-1:] == ["2"] else None]
            elif token not in ENDS:
                words.append(token)
            elif words:
                yield words
                words = []


def spans(text: str) -> list[str]:
    """What stands in backticks, line breaks made spaces."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def links(text: str) -> list[str]:
    """Where the page's links go that stay in the repository."""
    return [link for link in LINK.findall(prose(text)) if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """The names under which its headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of tables by the heading above them, without the header."""
    found: dict[str, list[list[str]]] = {}
    heading, inside = "", False
    for line in text.splitlines():
        if match := re.match(r"#+ (.*)", line):
            heading = match[1]
        if not line.startswith("|"):
            inside = False
        elif set(line) <= set("|-: "):
            inside = True
        elif inside:
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            found.setdefault(heading, []).append([cell.strip() for cell in cells])
    return found
