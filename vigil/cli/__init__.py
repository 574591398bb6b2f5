"""The commands: they read flags, open what a command needs, print what comes back, map errors to exit codes.

Nothing is decided here that a library user would miss. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from vigil.cli.common import app
from vigil.cli.examples import examples_first
from vigil.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SIGINT, VigilError
from vigil.logs import LogFormat, json_line
from vigil.settings import load_settings

COMMANDS = {
    **dict.fromkeys(("run", "retry"), "backfill"),
    "status": "status",
    "plan": "plan",
    "report": "report",
    "doctor": "doctor",
    **dict.fromkeys(("users", "migrate"), "known"),
    **dict.fromkeys(("load", "simulate-archives"), "load"),
    "export": "export",
    **dict.fromkeys(("verify", "repair", "explain"), "audit"),
    "maintain": "maintain",
    **dict.fromkeys(("simulate", "compare", "demo"), "rehearse"),
}
"""The module of each command; it adds its commands to the app when it is imported."""


def with_commands(words: Sequence[str] = ()) -> typer.Typer:
    """The app with the command that these words of a command line call, or with all: importing those takes a while."""
    called = next((word for word in words if not word.startswith("-")), None)
    for module in dict.fromkeys([COMMANDS[called]] if called in COMMANDS else COMMANDS.values()):
        import_module(f"vigil.cli.{module}")
    examples_first(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("vigil-backfill"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    pass  # the one ends before a command is asked for, the other is for `main`


def main() -> None:
    """Entry point: `VigilError`s become one sentence, a hint and an exit code."""
    debug = "--debug" in sys.argv
    if debug:  # accepted anywhere on the line
        sys.argv[1:] = ["--debug", *(word for word in sys.argv[1:] if word != "--debug")]
    try:
        with_commands(sys.argv[1:])()
    except VigilError as error:
        if debug:
            raise
        _tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `vigil-backfill users list | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_DONE)
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except Exception as error:
        if debug:
            raise
        bug = VigilError(
            f"a bug of vigil: {type(error).__name__}: {error}",
            hint="Nothing committed is lost. --debug shows the traceback; please report it.",
        )
        _tell(bug)
        sys.exit(EXIT_FAILURE)


def _tell(error: VigilError) -> None:
    if _all_json():
        print(json_line(str(error), "error", hint=error.hint or None, exit_code=error.exit_code), file=sys.stderr)
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)


def _all_json() -> bool:
    """Whether stderr is to be JSON throughout; not where the settings themselves are wrong."""
    try:
        return load_settings().log_format is LogFormat.JSON
    except VigilError:
        return False
