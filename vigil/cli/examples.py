"""`--help` begins with examples: each command's docstring has a paragraph of them, which is moved to the top here.

The paragraph is `Examples:` and then commands in backticks, with or without the program's name.
"""

from __future__ import annotations

import inspect
import re

import typer

PROGRAM = "vigil-backfill"


def examples_of(docstring: str) -> list[str]:
    """The commands in its paragraph of examples, each as it is typed."""
    paragraphs = (part for part in inspect.cleandoc(docstring).split("\n\n") if _is_examples(part))
    found = [" ".join(example.split()) for part in paragraphs for example in re.findall(r"`([^`]+)`", part)]
    return [one if one.startswith(PROGRAM) else f"{PROGRAM} {one}" for one in found]


def examples_first(app: typer.Typer) -> None:
    """Lay out the help of the app, of all its commands, and of its groups."""
    app.info.help = _arranged(str(app.info.help))
    for command in app.registered_commands:
        docstring = inspect.getdoc(command.callback) or ""
        command.help, command.short_help = _arranged(docstring), _first_sentences(docstring)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.short_help = _first_sentences(str(group.typer_instance.info.help))
            examples_first(group.typer_instance)


def _arranged(text: str) -> str:
    if text.startswith("\b"):  # it has been done
        return text
    about = "\n\n".join(part for part in text.split("\n\n") if not _is_examples(part))
    return "\n".join(["\b", "Examples:", *(f"  {one}" for one in examples_of(text)), "", about])  # \b: keep these lines


def _first_sentences(text: str) -> str:
    """What is listed of a command: its first paragraph, not its first example."""
    return " ".join(text.split("\n\n")[0].split())


def _is_examples(paragraph: str) -> bool:
    return paragraph.startswith("Examples:")
