"""The command tree: every command and option there is, a line parsed as users would have it parsed, and the reference.

`python -m tests.kit.commands > docs/commands.md` writes the page of all of them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from textwrap import fill
from types import NoneType
from typing import Any, get_args, get_type_hints

from typer.main import get_command

import vigil.cli  # noqa: F401  all commands are in the app
from vigil.cli import with_commands
from vigil.cli.examples import PROGRAM

ROOT: Any = get_command(with_commands())

EXAMPLES = re.compile(r"\x08\nExamples:\n(  .*\n)+")

HEAD = """\
# Every command, every option

What `--help` says, on one page, made by `python -m tests.kit.commands > docs/commands.md`; a test compares the two.
`0x…` stands for an address. Before a command, `--version` prints the version and `--debug` (anywhere) shows tracebacks
of errors; `--install-completion` sets up completion for your shell, `--show-completion` prints it. Settings:
[.env.example](../.env.example). Exit codes: [exit-codes.md](exit-codes.md).
"""


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    yield " ".join(path), command
    for name, one in getattr(command, "commands", {}).items():
        yield from _walk(one, (*path, name))


COMMANDS: dict[str, Any] = dict(_walk(ROOT, ()))
"""By name, without the program's: `users add`; the program itself by the empty one."""


def flags_of(name: str) -> set[str]:
    """Every spelling of every option of a command."""
    given = {"--help", "-h"} | ({"--debug"} if name else set())
    return given.union(*((*param.opts, *param.secondary_opts) for param in COMMANDS[name].params if _is_option(param)))


def parse(words: list[str]) -> str:
    """The command that this line calls, once it has parsed; raises what users would be told."""
    if not words or words[0] != PROGRAM:
        raise ValueError(f"{words} is no command line of {PROGRAM}")
    words = [word for word in words[1:] if word != "--debug"]
    command: Any = ROOT
    path: list[str] = []
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            raise ValueError(f"{' '.join([*path, *words[:1]])!r} is no command")
        path.append(words[0])
        command = command.commands[words.pop(0)]
    command.make_context(path[-1], words)
    return " ".join(path)


def reference() -> str:
    """The page of all commands."""
    return "\n".join([HEAD, *(_section(name) for name in sorted(COMMANDS) if not hasattr(COMMANDS[name], "commands"))])


def _section(name: str) -> str:
    command = COMMANDS[name]
    hints = get_type_hints(inspect.unwrap(command.callback))
    arguments = [_metavar(param, hints[param.name]) for param in command.params if not _is_option(param)]
    synopsis = " ".join([PROGRAM, name, *arguments, "[OPTIONS]"])
    rows = [_row(param, hints[param.name]) for param in command.params if _is_option(param)]
    table = ["| option | |", "|---|---|", *rows, ""] if rows else []
    examples = ["```", *re.findall(r"^  (.*)$", _examples(command), flags=re.MULTILINE), "```", ""]
    return "\n".join([f"## {name}", "", f"`{synopsis}`", "", _about(command), "", *examples, *table])


def _about(command: Any) -> str:
    """What its help says, without the examples that it begins with."""
    text = command.help.removeprefix(_examples(command))
    return "\n\n".join(fill(" ".join(part.split()), 118, break_on_hyphens=False) for part in text.strip().split("\n\n"))


def _examples(command: Any) -> str:
    return EXAMPLES.match(command.help)[0]  # type: ignore[index]  # it begins with them: tests/pure/test_help.py


def _row(param: Any, hint: Any) -> str:
    names = " ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    taken = "" if param.is_flag else f" {_metavar(param, hint)}".replace("|", "\\|")
    default = (
        "" if param.is_flag or callable(param.default) or param.default in (None, []) else f"[default: {param.default}]"
    )
    told = " ".join(f"{param.help or ''} {default}".split())
    return f"| {names}{taken} | {told} |"


def _metavar(param: Any, hint: Any) -> str:
    """What an option or argument takes: by the function's types, for those of the library differ by its version."""
    if param.metavar:
        return str(param.metavar)
    if not _is_option(param):
        return str(param.name).upper()
    (kind,) = {*(get_args(hint) or (hint,))} - {NoneType}
    kind = (get_args(kind) or (kind,))[0]
    if issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _is_option(param: Any) -> bool:
    return bool(param.param_type_name == "option")


if __name__ == "__main__":
    sys.stdout.write(reference())
