"""What the documents tell people to type does what they say: queries and commands, over one small backfill."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from shutil import which
from typing import Any
from xml.etree import ElementTree

import asyncpg
import pytest

from examples import equity
from tests.kit.backfill import WINDOW, backfill, everybody, small
from tests.kit.command import Outcome, environment
from tests.kit.commands import parse
from tests.kit.database import REPOSITORY, Server
from tests.kit.documents import PAGES, Line, blocks, lines, tables
from tests.kit.loop import run
from tests.kit.several import several
from vigil.db import session
from vigil.simulator import Simulator

SAFE = {"status", "plan", "users add", "users list", "report", "explain", "export", "migrate", "maintain"}
"""Commands that need no exchange."""

SCHEMA = REPOSITORY / "docs" / "schema.md"
QUERIES = {
    f"{page.relative_to(REPOSITORY)}, {number}": block
    for page in PAGES
    for number, block in enumerate(blocks(page.read_text("utf-8"), "sql"), 1)
}
ADOPTION = "CREATE TABLE fills (); CREATE TABLE fills_before_adoption (); CREATE TABLE vigil_adoption ();"
ADOPTION += "CREATE TABLE vigil_adoption_parts (); CREATE TABLE vigil_adoption_aside ()"


@dataclass(frozen=True)
class Backfilled:
    """A database after a run, and what the exchange knows of its users."""

    url: str
    truth: dict[str, list[dict[str, Any]]]

    @property
    def user(self) -> str:
        """Who has most fills."""
        return max(self.truth, key=lambda user: len(self.truth[user]))


@pytest.fixture(scope="module")
def backfilled(database_server: Server) -> Iterator[Backfilled]:
    async def fill(url: str) -> dict[str, list[dict[str, Any]]]:
        async with Simulator(small(8, 74, retention_rows=900, lengths={3: 1_400})) as exchange:
            await backfill(exchange, url)
            return {user: exchange.truth(user, WINDOW.start_ms, WINDOW.end_ms - 1) for user in everybody(exchange)}

    with database_server.database(migrated=True) as url:
        yield Backfilled(url, run(fill(url)))


async def fetched(url: str, statement: str) -> list[asyncpg.Record]:
    async with session(url) as connection:
        return await connection.fetch(statement)


def query(title: str, user: str = "") -> str:
    """The query below a bold title of the page of tables."""
    _, found, rest = SCHEMA.read_text("utf-8").partition(f"**{title}")
    assert found, f"no query is called {title}"
    return blocks(rest, "sql")[0].replace("0x…", user)


def usdc(row: dict[str, Any], name: str) -> Decimal:
    """An amount of a row of the exchange, if it is in USDC."""
    return Decimal(row[name]) if (row.get("feeToken") or "USDC") == "USDC" else Decimal(0)


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_of_the_documents_runs(backfilled: Backfilled, name: str) -> None:
    async def scenario() -> None:
        async with session(backfilled.url) as connection:
            transaction = connection.transaction()
            await transaction.start()
            if "vigil_adoption" in QUERIES[name]:  # an adoption under way: not in the way of the real table
                await connection.execute(f"CREATE SCHEMA under_way; SET LOCAL search_path = under_way; {ADOPTION}")
            await connection.execute(QUERIES[name].replace("0x…", backfilled.user))
            await transaction.rollback()

    run(scenario())


def test_the_columns_on_the_page_of_tables_are_those_of_the_tables(backfilled: Backfilled) -> None:
    told = {
        name: {column for row in rows for column in row[0].replace("`", "").split(", ")}
        for name, rows in tables(SCHEMA.read_text("utf-8")).items()
    }
    assert set(told) >= {"fills", "fills_daily", "backfill_progress", "backfill_samples"}
    columns = (
        "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns"
        " WHERE table_schema = 'public' GROUP BY 1"
    )
    there = {name: set(names) for name, names in run(fetched(backfilled.url, columns))}
    assert told == {name: there[name] for name in told}


def test_the_query_of_a_users_p_and_l_adds_up_to_what_the_exchange_knows(backfilled: Backfilled) -> None:
    user, rows = backfilled.user, backfilled.truth[backfilled.user]
    days = run(fetched(backfilled.url, query("P&L by day and coin", user)))
    assert len(days) > 10
    assert sum(day["net_of_usdc_fees"] for day in days) == sum(
        Decimal(row["closedPnl"]) - usdc(row, "fee") for row in rows
    )
    others = {row["feeToken"] for row in rows if row.get("feeToken") not in (None, "USDC")}
    assert {part.split()[1] for day in days for part in (day["other_fees"] or "").split(", ") if part} == others


def test_the_query_of_market_volume_counts_a_trade_once_whose_both_sides_are_here(backfilled: Backfilled) -> None:
    stranger = "0x" + "5" * 40
    other_sides = (
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
        " SELECT $1, time, coin, CASE side WHEN 'B' THEN 'A' ELSE 'B' END, px, sz, oid + 1, tid FROM fills"
        " WHERE tid > 0 AND oid % 2 = 0 AND user_address = $2"
    )
    trades = {
        (row["coin"], row["time"], row["tid"]): Decimal(row["px"]) * Decimal(row["sz"])
        for rows in backfilled.truth.values()
        for row in rows
        if row.get("tid") and 1_704_067_200_000 <= row["time"] < 1_735_689_600_000
    }

    async def scenario() -> None:
        async with session(backfilled.url) as connection:
            transaction = connection.transaction()
            await transaction.start()
            for user in backfilled.truth:
                await connection.execute(other_sides, stranger, user)
            found = await connection.fetch(query("Market volume"))
            partners = await connection.fetch(query("Who traded with whom", stranger).replace("2024-02", "2025-01"))
            await transaction.rollback()
        assert sum(row["trades"] for row in found) == len(trades) > 50
        assert sum(row["volume"] for row in found) == sum(trades.values())
        assert {row["user_address"] for row in partners} <= {*backfilled.truth}
        assert 0 < sum(row["trades"] for row in partners) < len(trades)

    run(scenario())


def test_the_query_of_positions_tells_what_the_last_fill_left(backfilled: Backfilled) -> None:
    user, rows = backfilled.user, backfilled.truth[backfilled.user]
    moment = rows[len(rows) // 2]["time"]
    at = datetime.fromtimestamp(moment / 1000, UTC)
    left = {
        row["coin"]: Decimal(row["startPosition"]) + Decimal(row["sz"]) * (1 if row["side"] == "B" else -1)
        for row in rows
        if row["time"] <= moment and row["coin"][0] not in "@#" and "/" not in row["coin"]
    }
    found = run(fetched(backfilled.url, query("Positions at a moment", user).replace("2024-06-01Z", f"{at:%FT%T.%fZ}")))
    assert left
    assert {row["coin"]: row["position"] for row in found} == left


# -- commands -------------------------------------------------------------------------------------


def runnable(place: Path, user: str) -> dict[tuple[str, ...], list[Line]]:
    """The lines of each safe command, by its words: with paths and users that exist, and looking once only."""
    found: dict[tuple[str, ...], list[Line]] = {}
    for page in PAGES:
        for line in lines(page):
            if parse(list(line.words)) in SAFE:
                words = re.sub(r" --watch( \d+)?", "", " ".join(line.words[1:])).replace("0x…", user)
                words = words.replace("/srv/www/", f"{place}/").replace("/out/", f"{place}/out/")
                found.setdefault(tuple(words.split()), []).append(line)
    return found


def test_every_documented_command_that_needs_no_exchange_does_its_work(backfilled: Backfilled, tmp_path: Path) -> None:
    for name in ("users.txt", "addresses.txt"):
        (tmp_path / name).write_text("\n".join(backfilled.truth))
    (tmp_path / "out").mkdir()
    found = runnable(tmp_path, backfilled.user)
    assert {parse(list(line.words)) for same in found.values() for line in same} == SAFE
    env = {**environment(backfilled.url), "PYTHONPATH": str(REPOSITORY)}
    outcomes = run(several(list(found), env=env, cwd=tmp_path, stdin=tmp_path / "users.txt"))
    assert {words: one.err for words, one in zip(found, outcomes, strict=True) if one.code} == {}
    if which("jq"):
        piped = [(line, one) for same, one in zip(found.values(), outcomes, strict=True) for line in same if line.into]
        assert len(piped) > 4
        assert {str(line): told for line, one in piped if not (told := filtered(line, one)).strip()} == {}


def filtered(line: Line, outcome: Outcome) -> str:
    """What the documented filter makes of what the command prints."""
    done = subprocess.run(list(line.into), input=outcome.out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line.into}: {done.stderr}"
    return done.stdout


# -- the example ----------------------------------------------------------------------------------


def test_the_equity_of_every_user_is_what_the_exchange_knows_to_the_digit(backfilled: Backfilled) -> None:
    async def scenario() -> None:
        async with session(backfilled.url) as connection:
            for user, rows in backfilled.truth.items():
                curve, standing = await equity.read(connection, user)
                settled = [row for row in rows if not elsewhere(row)]
                assert curve.total.closed_pnl == sum(Decimal(row["closedPnl"]) for row in settled)
                assert curve.total.fees == sum(usdc(row, "fee") for row in settled)
                assert {coin: line.fills for coin, line in curve.coins.items()} == counted(settled)
                assert sum(line.net for line in curve.coins.values()) == curve.total.net
                in_tokens = sum(Decimal(row["fee"]) - usdc(row, "fee") for row in settled)
                assert sum(line.fees for line in curve.other_fees.values()) == in_tokens
                assert sum(line.fills for line in curve.other_units.values()) == len(rows) - len(settled)
                assert [time for time, _ in curve.total.points] == sorted({row["time"] for row in settled})
                assert standing.verdict in " ".join(equity.describe(user, curve, standing))

    run(scenario())


def elsewhere(row: dict[str, Any]) -> bool:
    """Settled in another token: neither its fee is in USDC, nor is it a buy of spot."""
    spot = row["coin"][0] in "@#" or "/" in row["coin"]
    return (row.get("feeToken") or "USDC") != "USDC" and not (spot and row["side"] == "B")


def counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {coin: sum(row["coin"] == coin for row in rows) for coin in {row["coin"] for row in rows}}


def test_the_example_draws_the_curve_and_says_what_can_not_be_trusted(
    backfilled: Backfilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIGIL_DATABASE_URL", backfilled.url)
    picture = tmp_path / "equity.svg"
    assert equity.main([backfilled.user, "-o", str(picture), "--by-coin"]) == 0
    said = capsys.readouterr().out
    assert "verdict: truncated" in said
    assert "The curve begins late" in said
    assert "hatched, before " in said
    assert equity.NOT_IN_IT in said
    tags = [element.tag.rpartition("}")[2] for element in ElementTree.parse(picture).iter()]
    assert tags.count("rect") >= 1
    assert tags.count("path") > 5
    assert equity.main(["0x" + "9" * 40]) == 2
    assert "is not known here" in capsys.readouterr().err


def test_the_curve_marks_gaps_and_keeps_what_is_in_other_tokens_apart() -> None:
    def row(time_ms: int, coin: str, side: str, pnl: str | None, fee: str | None, token: str | None) -> dict[str, Any]:
        pnl_and_fee = [None if text is None else Decimal(text) for text in (pnl, fee)]
        return {
            "time_ms": time_ms, "coin": coin, "side": side, "px": Decimal("2.5"),
            "closed_pnl": pnl_and_fee[0], "fee": pnl_and_fee[1], "fee_token": token,
        }  # fmt: skip

    rows = [
        row(1, "BTC", "B", "0.1", "0.3", None),
        row(2, "BTC", "A", "12345678901234567890.0000000001", "-0.0000000002", "USDC"),
        row(2, "@107", "B", "0", "0.4", "HYPE"),
        row(3, "@107", "A", "5", "0.5", "USDC"),
        row(4, "abc:XYZ", "A", "7", "1", "USDE"),
        row(5, "BTC", "A", None, None, "USDC"),
    ]
    curve = equity.add_up(rows)
    assert curve.total.points == [
        (1, Decimal("-0.2")),
        (2, Decimal("12345678901234567889.8000000003")),
        (3, Decimal("12345678901234567894.3000000003")),
        (5, Decimal("12345678901234567894.3000000003")),
    ]
    user = {"state": "completed", "verdict": "gap", "verdict_why": "why", "judged": True, "window_end_ms": None}
    standing = equity.Standing(user, [{"from_ms": 2, "to_ms": 3, "why": "rows are <missing>"}])
    said = "\n".join(equity.describe("0xa", curve, standing))
    assert "The curve can't be trusted" in said
    assert "1 fills settled in USDE are not in it: closed P&L 7, fees 1 USDE." in said
    assert "Fees in HYPE are not taken off: 0.4 of 1 fills, worth 1.00 when bought." in said
    assert "1 fills tell no closed P&L, 1 no fee" in said
    drawn = equity.draw("0xa", equity.chosen(curve, by_coin=True), standing, standing.marks(curve))
    assert "rows are &lt;missing&gt;" in drawn
    assert drawn.count('class="line"') == 4  # two coins, and their legend
