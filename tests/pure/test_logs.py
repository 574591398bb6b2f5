"""Log lines: who they are about, how they look, and that everything said can be JSON."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
from typing import Any

import pytest

from tests.kit.loop import run
from vigil.display import Voice, progress_display
from vigil.logs import LogFormat, about, bind, json_line, logged_to
from vigil.views import View

log = logging.getLogger("vigil.rooms")


def collected(level: int = logging.WARNING, **how: Any) -> tuple[list[str], Any]:
    lines: list[str] = []
    return lines, logged_to(lines.append, level, **how)


def test_a_line_of_json_tells_when_how_bad_what_and_whom_it_is_about() -> None:
    lines, logging_on = collected(as_json=True)
    with logging_on, about(worker="7"):
        with about(user="0xab", lane=None):
            bind(lane="192.0.2.1")
            log.warning("%d rows could not be understood", 3)
        log.error("no lane any more")
        logging.getLogger("aiohttp.client").warning("a library's")
        log.info("not asked for")
    first, second, third = map(json.loads, lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "warning",
        "event": "3 rows could not be understood",
        "worker": "7",
        "user": "0xab",
        "lane": "192.0.2.1",
        "logger": "vigil.rooms",
    }
    assert (second["level"], second["worker"], {"user", "lane"} & set(second)) == ("error", "7", set())
    assert (third["event"], third["logger"], third["worker"]) == ("a library's", "aiohttp.client", "7")


def test_users_that_are_read_side_by_side_are_not_mixed_up() -> None:
    lines, logging_on = collected(as_json=True)

    async def read(user: str, lane: str, turn: asyncio.Barrier) -> None:
        with about(user=user, lane=None):
            await turn.wait()
            bind(lane=lane)
            await turn.wait()
            log.warning("of %s by %s", user, lane)

    async def scenario() -> None:
        turn = asyncio.Barrier(3)
        with about(worker="1"):
            await asyncio.gather(*(read(f"0x{i}", f"lane {i}", turn) for i in range(3)))
            log.warning("of nobody")

    with logging_on:
        run(scenario())
    *told, last = map(json.loads, lines)
    assert sorted(one["event"] for one in told) == sorted(f"of {one['user']} by {one['lane']}" for one in told)
    assert len({one["user"] for one in told}) == 3
    assert set(last) == {"time", "level", "event", "worker", "logger"}


def test_a_sentence_tells_whom_it_is_about_once_and_in_a_file_when() -> None:
    for timed, expected in (
        (False, ["warning: 0xab lacks rows (lane b)", "warning: slow (user 0xab, lane b)"]),
        (True, ["warning: 0xab lacks rows (worker 7, lane b)", "warning: slow (worker 7, user 0xab, lane b)"]),
    ):
        lines, logging_on = collected(as_json=False, timed=timed)
        with logging_on, about(worker="7", user="0xab", lane="b"):
            log.warning("0xab lacks rows")
            log.warning("slow")
        if timed:
            assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
            lines = [line.split(" ", 1)[1] for line in lines]
        assert lines == expected


def test_a_traceback_is_one_line_of_json_without_the_values_of_variables() -> None:
    lines, logging_on = collected(as_json=True)
    with logging_on:
        password = "geheim"
        try:
            raise OSError("gone")
        except OSError:
            log.warning("tried", exc_info=True)
        assert password
    (told,) = map(json.loads, lines)
    assert told["exception"].endswith("OSError: gone")
    assert "geheim" not in lines[0].replace('password = "geheim"', "")


def test_when_it_is_over_the_loggers_are_as_they_were() -> None:
    before = (logging.getLogger("vigil").level, list(logging.getLogger().handlers))
    lines, logging_on = collected(logging.DEBUG, as_json=True)
    with logging_on:
        log.debug("seen")
    log.warning("not seen")
    assert [json.loads(line)["event"] for line in lines] == ["seen"]
    assert (logging.getLogger("vigil").level, list(logging.getLogger().handlers)) == before


def hearing(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is said on stderr from now on; not a fixture, for pytest puts its own in place before each test."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


async def until_said(heard: io.StringIO, word: str) -> None:
    async with asyncio.timeout(10):
        while word not in heard.getvalue():  # noqa: ASYNC110  a timer's
            await asyncio.sleep(0.005)


def test_where_all_is_json_each_thing_said_is_a_line_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hearing(monkeypatch)
    voice = Voice(LogFormat.JSON)
    said = ["reading [2023-01-01, …) from a:lock:b", "x" * 500, "[bold]as it is[/bold]"]
    for text in said:
        voice.print(text, highlight=False)

    async def scenario() -> None:
        with progress_display(voice, plain_seconds=0.01) as show, about(worker="7"):
            log.warning("meanwhile")
            shown = asyncio.create_task(show(lambda: View({"users": "3 of 4"}, {"users": {"done": 3}})))
            await until_said(heard, "progress")
            shown.cancel()

    run(scenario())
    told = [json.loads(line) for line in heard.getvalue().splitlines()]
    assert [one["event"] for one in told[:3]] == said
    assert (told[3]["event"], told[3]["level"], told[3]["worker"]) == ("meanwhile", "warning", "7")
    assert (told[4]["event"], told[4]["users"]) == ("progress", {"done": 3})


def test_off_a_terminal_talk_is_sentences_and_what_is_logged_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hearing(monkeypatch)

    async def scenario() -> None:
        with progress_display(Voice(), plain_seconds=0.01) as show:
            log.warning("slow")
            shown = asyncio.create_task(show(lambda: View({"users": "3 of 4", "left": "2 h"}, {})))
            await until_said(heard, "users")
            shown.cancel()

    run(scenario())
    logged, said = heard.getvalue().splitlines()[:2]
    assert (json.loads(logged)["event"], said) == ("slow", "users: 3 of 4; left: 2 h")


def test_an_error_as_json_says_what_to_do_and_the_exit_code() -> None:
    told = json.loads(json_line("It is gone.", "error", hint="Look.", exit_code=5))
    assert list(told) == ["time", "level", "event", "hint", "exit_code"]
    assert (told["level"], told["hint"], told["exit_code"]) == ("error", "Look.", 5)
