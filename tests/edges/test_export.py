"""What is exported, read back: the table to the last digit, in order, in one snapshot; or nothing at all."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.kit.backfill import ask, tell
from tests.kit.factories import steadily
from tests.kit.loop import run
from tests.kit.proxy import Proxy
from vigil.errors import EXIT_TEMPORARY, StoreUnavailable, UsageError, VigilError
from vigil.export import Export, Exported, Format, Numbers, Partition, Progress, Wanted, job, lines, parquet
from vigil.export.parquet import fits
from vigil.export.place import MANIFEST, Directory, Place, SingleFile
from vigil.export.wanted import AMOUNTS, COLUMNS, SPAN_ROWS, spans
from vigil.settings import Settings

USERS = [f"0x{n:02x}{'5e' * 19}" for n in (0, 7, 0x80, 0xFE)]
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
ORDER = "ORDER BY user_address, time, seq, tid, oid, side, coin"
READ_ALL = f"SELECT {', '.join(COLUMNS)} FROM fills {ORDER}"

Row = dict[str, Any]


def settings() -> Settings:
    given: dict[str, Any] = {"_env_file": None}
    return Settings(**given)


def row(tid: int, user: str = USERS[0], time: datetime = NEW_YEAR, **changes: Any) -> Row:
    return {
        **dict.fromkeys(COLUMNS),
        "user_address": user,
        "time": time,
        "coin": "BTC",
        "side": "B",
        "px": Decimal("42000.5"),
        "sz": Decimal("0.01"),
        "oid": tid + 7,
        "tid": tid,
        "seq": 0,
        **changes,
    }


def ordinary(count: int) -> list[Row]:
    """Rows of four users over four months."""
    return [
        row(tid, USERS[tid % 4], NEW_YEAR + timedelta(hours=3 * tid), fee=Decimal(-tid), dir="Open Long", crossed=True)
        for tid in range(count)
    ]


def spread() -> list[Row]:
    """Ten rows each of 43 users, which lie as addresses do: evenly."""
    return [row(tid, f"0x{tid // 10 * 6:02x}{'5e' * 19}", NEW_YEAR + timedelta(hours=5 * tid)) for tid in range(430)]


@pytest.fixture
def finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes millions of rows otherwise: a block for whatever arrives, spans of a user or so, small row groups."""
    monkeypatch.setattr(job, "BLOCK_BYTES", 1)
    monkeypatch.setattr("vigil.export.wanted.SPAN_ROWS", 10)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 25)
    monkeypatch.setattr(parquet, "WAITING_ROWS", 60)


async def fill_table(url: str, rows: Sequence[Row]) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("TRUNCATE fills")
        marks = ", ".join(f"${n}" for n in range(1, len(COLUMNS) + 1))
        insert = f"INSERT INTO fills ({', '.join(COLUMNS)}) VALUES ({marks})"
        await connection.executemany(insert, [tuple(one[name] for name in COLUMNS) for one in rows])
        await connection.execute("ANALYZE fills")  # by its estimate an export is divided
    finally:
        await connection.close()


async def table(url: str) -> list[Row]:
    connection = await asyncpg.connect(url)
    try:
        return [dict(one) for one in await connection.fetch(READ_ALL)]
    finally:
        await connection.close()


async def export(
    url: str, place: Place, tell_progress: Callable[[Progress], None] = lambda _: None, **wanted: Any
) -> Exported:
    return await Export(settings(), url, Wanted(**wanted), place, tell_progress).execute()


def read_parquet(path: Path) -> list[Row]:
    return list(pq.ParquetFile(path).read().to_pylist())


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


async def read_csv(url: str, path: Path) -> list[Row]:
    """As Postgres itself reads it back, into a table without any order of its own."""
    text = content(path)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TEMP TABLE back (LIKE fills, line serial)")
        source = io.BytesIO(text)
        await connection.copy_to_table("back", source=source, columns=COLUMNS, format="csv", header=True)
        return [dict(one) for one in await connection.fetch(f"SELECT {', '.join(COLUMNS)} FROM back ORDER BY line")]
    finally:
        await connection.close()


def entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


class Made(NamedTuple):
    root: Path
    manifest: dict[str, Any]
    files: dict[str, Path]


def made(root: Path) -> Made:
    """What lies in a directory after an export: nothing but whole files and the manifest that names them."""
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    manifest = json.loads(files.pop(MANIFEST).read_text("utf-8"))
    assert [one["path"] for one in manifest["files"]] == sorted(files)
    assert [one["bytes"] for one in manifest["files"]] == [path.stat().st_size for path in files.values()]
    return Made(root, manifest, files)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["", '"', '""', "\n", "\r\n", "\r", ",", "\t", "\\", "\\.", "NULL", "\\N", "é漢\U0001f600", 'a"\nb,c', "NaN"]
)
amounts = st.decimals(-(10**20) + 1, 10**20 - 1, places=18) | st.sampled_from(
    [Decimal(n) for n in ("0", "0.0", "-0.1", "15105850.5999999996", "99999999999999999999.999999999999999999", "1E+5")]
)
json_texts = st.none() | st.dictionaries(text, text | st.integers(), max_size=2).map(json.dumps)
instants = st.datetimes(datetime(2023, 1, 1), datetime(2025, 7, 1)).map(lambda naive: naive.replace(tzinfo=UTC))


@st.composite
def nasty_rows(draw: st.DrawFn) -> list[Row]:
    return [
        row(
            tid,
            draw(st.sampled_from(USERS)),
            draw(st.just(NEW_YEAR) | instants),
            **{name: draw(text) for name in ("coin", "side")},
            **{name: draw(st.none() | text) for name in ("dir", "hash", "fee_token", "cloid")},
            **{name: draw(amounts) for name in ("px", "sz")},
            **{name: draw(st.none() | amounts) for name in AMOUNTS if name not in ("px", "sz")},
            **{name: draw(json_texts) for name in ("liquidation", "extra")},
            crossed=draw(st.none() | st.booleans()),
            twap_id=draw(st.none() | st.integers(0, 2**63 - 1)),
            block_time=draw(st.none() | instants),
            seq=draw(st.none() | st.integers(0, 2)),
        )
        for tid in range(draw(st.integers(0, 15)))
    ]


def test_whatever_the_rows_hold_parquet_and_csv_read_back_are_the_table(migrated_url: str, tmp_path: Path) -> None:
    @steadily(10)
    @given(nasty_rows())
    def holds(rows: list[Row]) -> None:
        async def scenario() -> None:
            await fill_table(migrated_url, rows)
            expected = await table(migrated_url)
            for name, numbers in (("d.parquet", Numbers.DECIMAL), ("t.parquet", Numbers.TEXT)):
                place = SingleFile(tmp_path / name, overwrite=True)
                await export(migrated_url, place, partition=Partition.NONE, numbers=numbers)
                back = read_parquet(tmp_path / name)
                if numbers is Numbers.TEXT:
                    back = [{**one, **{n: one[n] and Decimal(one[n]) for n in AMOUNTS}} for one in back]
                assert back == expected
            place = SingleFile(tmp_path / "c.csv", overwrite=True)
            out = await export(migrated_url, place, format=Format.CSV, partition=Partition.NONE)
            assert await read_csv(migrated_url, tmp_path / "c.csv") == expected
            assert out.rows == len(expected)

        run(scenario())

    holds()


def test_nasty_rows_go_to_the_file_of_their_month_and_user_whole(migrated_url: str, tmp_path: Path) -> None:
    breaks = 'a"\n0x' + "1" * 40 + ',2020-01-01,"\r\n'
    rows = [
        row(tid, USERS[tid % 2], NEW_YEAR + timedelta(days=40 * (tid % 3)), coin=f"{breaks}{tid}") for tid in range(9)
    ]

    async def scenario() -> None:
        await fill_table(migrated_url, rows)
        expected = await table(migrated_url)
        for form, partition in ((f, p) for f in Format for p in (Partition.MONTH, Partition.USER)):
            root = tmp_path / f"{form}-{partition}"
            await export(migrated_url, Directory(root), format=form, partition=partition)
            for name, path in made(root).files.items():
                back = read_parquet(path) if form is Format.PARQUET else await read_csv(migrated_url, path)
                month, user = (
                    name.split("/")[0].removeprefix("month="),
                    name.split("/")[0].removeprefix("user_address="),
                )
                assert back == [r for r in expected if user == r["user_address"] or month == f"{r['time']:%Y-%m}"]
                assert back

    run(scenario())


@pytest.mark.parametrize(("form", "packed"), [(Format.PARQUET, False), (Format.CSV, False), (Format.CSV, True)])
@pytest.mark.parametrize("partition", Partition)
def test_many_blocks_spans_and_row_groups_make_the_same_files(
    migrated_url: str, tmp_path: Path, form: Format, partition: Partition, packed: bool, finely: None
) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, spread())
        expected = await table(migrated_url)
        seen: list[int] = []
        wanted: dict[str, Any] = {"format": form, "partition": partition, "gzip": packed}
        out = await export(migrated_url, Directory(tmp_path / "out"), lambda now: seen.append(now.rows), **wanted)
        whole = made(tmp_path / "out")
        back: list[Row] = []
        for one in whole.manifest["files"]:
            path = whole.files[one["path"]]
            rows = read_parquet(path) if form is Format.PARQUET else await read_csv(migrated_url, path)
            assert len(rows) == one["rows"]
            assert rows == sorted(rows, key=lambda r: (r["user_address"], r["time"], r["tid"]))
            back += rows
        assert sorted(back, key=lambda r: r["tid"]) == sorted(expected, key=lambda r: r["tid"])
        assert len(whole.files) == {Partition.NONE: 1, Partition.MONTH: 3, Partition.USER: 43}[partition]
        assert whole.manifest["rows"] == out.rows == 430
        assert len(seen) >= 40
        assert seen[-1] == 430

    run(scenario())


def test_the_columns_are_those_of_the_table_and_no_number_is_a_float(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        names = await ask(
            migrated_url,
            "SELECT array_agg(attname ORDER BY attname) FROM pg_attribute"
            " WHERE attrelid = 'fills'::regclass AND attnum > 0 AND NOT attisdropped",
        )
        assert sorted(COLUMNS) == [*names]
        await fill_table(migrated_url, ordinary(3))
        await export(migrated_url, SingleFile(tmp_path / "f.parquet"), partition=Partition.NONE, start_ms=0)
        schema = pq.read_schema(tmp_path / "f.parquet")
        assert not [field for field in schema if pa.types.is_floating(field.type)]
        assert {schema.field(name).type for name in AMOUNTS} == {pa.decimal128(38, 18)}
        assert schema.field("time").type == pa.timestamp("us", "UTC")
        told = json.loads(schema.metadata[b"vigil"])
        assert told["window"] == {"start": "1970-01-01T00:00:00+00:00", "end_exclusive": None}
        assert told["created_by"].startswith("vigil-backfill ")
        assert datetime.fromisoformat(told["snapshot_at"]).tzinfo

    run(scenario())


@pytest.mark.parametrize("partition", [Partition.MONTH, Partition.USER])
def test_pyarrow_reads_a_directory_as_one_table(migrated_url: str, tmp_path: Path, partition: Partition) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(900))
        await export(migrated_url, Directory(tmp_path / "out"), partition=partition)
        back = pq.read_table(tmp_path / "out").select(COLUMNS).to_pylist()
        assert sorted(back, key=lambda r: r["tid"]) == sorted(await table(migrated_url), key=lambda r: r["tid"])

    run(scenario())


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "0.0000000000000000001", "100000000000000000000", "-100000000000000000000.5"),
        # Made into a decimal without a look at its length, this one becomes 95513692080783205441.51...
        *("12345678901234567890123", "170141183460469231731", "9" * 60),
    ],
)
def test_a_number_that_does_not_fit_is_named_and_never_rounded(migrated_url: str, tmp_path: Path, value: str) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, [*ordinary(5), row(77, USERS[3], start_position=Decimal(value))])
        target = tmp_path / "f.parquet"
        with pytest.raises(VigilError, match=f"start_position = {value.replace('.', '[.]')} exactly") as caught:
            await export(migrated_url, SingleFile(target), partition=Partition.NONE)
        assert USERS[3] in str(caught.value)
        assert "tid 77" in str(caught.value)
        assert "--numbers text" in caught.value.hint
        assert not entries(tmp_path)
        await export(migrated_url, SingleFile(target), partition=Partition.NONE, numbers=Numbers.TEXT)
        assert value in [one["start_position"] for one in read_parquet(target)]
        await export(migrated_url, SingleFile(tmp_path / "f.csv"), partition=Partition.NONE, format=Format.CSV)
        assert f",{value}," in (tmp_path / "f.csv").read_text()

    run(scenario())


@given(amounts | st.decimals(places=19) | st.sampled_from([Decimal(n) for n in ("NaN", "-Infinity")]))
@steadily(200)
def test_what_fits_is_what_a_decimal_of_38_digits_holds_18_of_them_behind_the_point(number: Decimal) -> None:
    exact = number.is_finite() and (Fraction(number) * 10**18).denominator == 1 and abs(Fraction(number)) < 10**20
    printed = f"{number:f}" if number.is_finite() else str(number)
    assert fits(printed) == exact


def test_a_window_and_users_are_exactly_what_was_asked_for(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(400))
        start, end = NEW_YEAR + timedelta(hours=300), NEW_YEAR + timedelta(hours=900)
        stranger = "0x" + "99" * 20
        window: dict[str, Any] = {"start_ms": int(start.timestamp()) * 1000, "end_ms": int(end.timestamp()) * 1000}
        wanted = [USERS[2], USERS[1], stranger]
        place = SingleFile(tmp_path / "f.parquet")
        out = await export(migrated_url, place, partition=Partition.NONE, users=wanted, **window)
        expected = [r for r in await table(migrated_url) if start <= r["time"] < end and r["user_address"] in wanted]
        assert read_parquet(tmp_path / "f.parquet") == expected
        assert len(expected) == 100
        assert out.strangers == [stranger]

    run(scenario())


def test_only_users_that_nobody_knows_are_refused_and_nothing_is_written(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(4))
        for users in ([USERS[1][:-1] + "0"], ["0x" + "98" * 20, "0x" + "99" * 20]):
            with pytest.raises(UsageError, match="known here"):
                await export(migrated_url, Directory(tmp_path / "out"), users=users)
        assert not entries(tmp_path)

    run(scenario())


def test_an_empty_window_is_an_export_of_no_rows(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(4))
        out = await export(migrated_url, Directory(tmp_path / "out"), end_ms=1)
        assert made(tmp_path / "out").files == {}
        assert (out.rows, out.users) == (0, 0)
        await export(migrated_url, SingleFile(tmp_path / "f.parquet"), end_ms=1, partition=Partition.NONE)
        assert pq.ParquetFile(tmp_path / "f.parquet").read().num_rows == 0
        assert pq.read_schema(tmp_path / "f.parquet").names == [*COLUMNS]

    run(scenario())


def test_the_manifest_counts_what_is_proven_and_what_is_not(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(40))
        day = 86_400_000
        since = int(NEW_YEAR.timestamp()) * 1000
        unread, silent = "0x" + "11" * 20, "0x" + "22" * 20
        progress = (
            "INSERT INTO backfill_progress (user_address, completed, window_start_ms, window_end_ms, cursor_ms,"
            " verdict, judged_at) VALUES ($1, $2, $3, $4, $4, $5, $6)"
        )
        at = datetime(2025, 1, 1, tzinfo=UTC)
        await tell(migrated_url, progress, USERS[0], True, since, since + day, "complete", at)
        await tell(migrated_url, progress, USERS[1], True, since, since + 9 * day, "gap", at)
        await tell(migrated_url, progress, USERS[2], True, since, since + 9 * day, None, None)
        await tell(migrated_url, progress, silent, True, since, since + 9 * day, "empty", at)
        await tell(migrated_url, progress, unread, False, since, since + 9 * day, None, None)
        gap = "INSERT INTO backfill_gaps (user_address, from_ms, to_ms, kind) VALUES ($1, $2, $2, 'retention')"
        await tell(migrated_url, gap, USERS[1], since + 5)
        await tell(migrated_url, gap, USERS[1], since + 8 * day)  # behind the window
        await tell(
            migrated_url,
            "INSERT INTO rejected_fills (user_address, raw_sha256, raw, reason) VALUES ($1, 'x', '{}', 'odd')",
            USERS[1],
        )
        await export(migrated_url, Directory(tmp_path / "out"), start_ms=since, end_ms=since + 2 * day)
        assert made(tmp_path / "out").manifest["completeness"] == {
            "users_with_rows": {"complete": 1, "gap": 1, "not_judged": 1, "not_known": 1},
            "users_without_rows": {"empty": 1, "not_read": 1},
            "users_read_for_less_than_the_window": 1,
            "users_named_but_not_known": 0,
            "recorded_gaps": 1,
            "rejected_rows": 1,
        }

    run(scenario())


def test_rows_that_come_while_an_export_runs_are_not_in_it(migrated_url: str, tmp_path: Path, finely: None) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, spread())
        expected = await table(migrated_url)
        late: list[asyncio.Task[None]] = []

        def add(_: Progress) -> None:
            if not late:
                late.append(asyncio.create_task(fill_more()))

        async def fill_more() -> None:
            await tell(
                migrated_url,
                "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
                " SELECT $1, time, coin, side, px, sz, oid, tid FROM fills WHERE user_address = $2",
                "0xff" + "5e" * 19,
                spread()[0]["user_address"],
            )

        await export(migrated_url, SingleFile(tmp_path / "f.parquet"), add, partition=Partition.NONE)
        await late[0]
        assert read_parquet(tmp_path / "f.parquet") == expected
        assert len(await table(migrated_url)) > len(expected)

    run(scenario())


def test_a_database_that_goes_away_leaves_no_file_and_is_told(migrated_url: str, tmp_path: Path, finely: None) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, spread())
        async with Proxy(migrated_url) as proxy:
            with pytest.raises(StoreUnavailable) as caught:
                await export(proxy.url, Directory(tmp_path / "out"), lambda _: proxy.cut())
        assert caught.value.exit_code == EXIT_TEMPORARY
        assert not entries(tmp_path)

    run(scenario())


def test_a_cancelled_export_leaves_no_file_no_session_and_no_task(
    migrated_url: str, tmp_path: Path, finely: None
) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, spread())
        for blocks in (1, 7, 40):
            await interrupted_at(blocks)
            assert not entries(tmp_path)

    async def interrupted_at(blocks: int) -> None:
        seen: list[int] = []

        def interrupt(progress: Progress) -> None:
            seen.append(progress.rows)
            if len(seen) == blocks:
                task.cancel()

        task = asyncio.create_task(export(migrated_url, Directory(tmp_path / "out"), interrupt))
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


# Where files appear


def small_export(url: str, root: Path, **wanted: Any) -> Exported:
    overwrite = wanted.pop("overwrite", False)
    return run(export(url, Directory(root, overwrite=overwrite), **{"format": Format.CSV, **wanted}))


def test_an_earlier_export_is_replaced_only_when_asked_for_and_nothing_else_ever(
    migrated_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    run(fill_table(migrated_url, ordinary(900)))
    small_export(migrated_url, root)
    before = made(root).files
    with pytest.raises(UsageError, match="not empty"):
        small_export(migrated_url, root)
    small_export(migrated_url, root, partition=Partition.USER, overwrite=True)
    after = made(root).files
    assert not set(before) & set(after)
    for stranger in (root / "notes.txt", root / next(iter(after)).split("/")[0] / "notes.txt"):
        stranger.write_text("mine")
        with pytest.raises(UsageError, match=r"no part of an earlier export"):
            small_export(migrated_url, root, overwrite=True)
        assert stranger.read_text() == "mine"
        stranger.unlink()
    assert made(root).files == after


def test_a_file_is_replaced_only_when_asked_for(migrated_url: str, tmp_path: Path) -> None:
    target = tmp_path / "fills.csv"
    target.write_text("mine")
    run(fill_table(migrated_url, ordinary(9)))
    wanted: dict[str, Any] = {"format": Format.CSV, "partition": Partition.NONE}
    with pytest.raises(UsageError, match="is there already"):
        run(export(migrated_url, SingleFile(target), **wanted))
    assert target.read_text() == "mine"
    run(export(migrated_url, SingleFile(target, overwrite=True), **wanted))
    assert target.read_text().count("\n") == 10
    assert json.loads((tmp_path / "fills.csv.export.json").read_text())["rows"] == 9
    assert len(entries(tmp_path)) == 2


def test_a_place_that_is_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (Directory(file), SingleFile(tmp_path), SingleFile(tmp_path / "absent" / "fills.csv")):
        with pytest.raises(UsageError, match=r"is (no|a) directory"):
            place.prepare()
    assert entries(tmp_path) == [file]


def test_two_exports_into_one_directory_do_not_mix(migrated_url: str, tmp_path: Path) -> None:
    first = Directory(tmp_path / "out")
    first.prepare()
    with pytest.raises(UsageError, match="Another export is writing there"):
        small_export(migrated_url, tmp_path / "out", overwrite=True)
    first.abandon()
    assert not (tmp_path / "out").exists()


def test_a_directory_that_was_there_stays_when_an_export_fails(migrated_url: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    root.mkdir()
    with pytest.raises(UsageError):
        small_export(migrated_url, root, users=["0x" + "99" * 20])
    assert not entries(root)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from vigil.export import Export, Format, Partition, Wanted
from vigil.export.output import Output
from vigil.export.place import Directory
from vigil.settings import Settings

url, root, moment = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
moments = 0

def step():
    global moments
    moments += 1
    if moments == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def before(function):
    def stepping(*arguments, **named):
        step()
        return function(*arguments, **named)
    return stepping

for name in ("rename", "fsync", "mkdir", "unlink"):
    setattr(os, name, before(getattr(os, name)))
Output.write = before(Output.write)
wanted = Wanted(Format.CSV, Partition.MONTH)
asyncio.run(Export(Settings(_env_file=None), url, wanted, Directory(root, overwrite=True)).execute())
print(moments)
"""


def test_killed_at_any_moment_nothing_looks_like_an_export_and_the_next_one_clears_up(
    migrated_url: str, tmp_path: Path
) -> None:
    run(fill_table(migrated_url, ordinary(900)))
    truth = tmp_path / "truth"
    small_export(migrated_url, truth)
    whole = {name: path.read_bytes() for name, path in made(truth).files.items()}

    def attempt(root: Path, moment: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, migrated_url, str(root), str(moment)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    small_export(migrated_url, tmp_path / "out")
    finished = attempt(tmp_path / "out", 0)
    assert finished.returncode == 0, finished.stderr
    moments = int(finished.stdout)
    assert moments > 25
    for moment in (1, moments // 2, moments - 6, moments - 3, moments):
        old = set(made(tmp_path / "out").files)
        killed = attempt(tmp_path / "out", moment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        left = {
            str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()
        }
        data = {name: path for name, path in left.items() if name.endswith(".csv")}
        assert {name: path.read_bytes() for name, path in data.items()}.items() <= whole.items()
        if MANIFEST in left:
            assert set(data) == old
        small_export(migrated_url, tmp_path / "out", overwrite=True)
        assert {name: path.read_bytes() for name, path in made(tmp_path / "out").files.items()} == whole
        assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


# How it is divided


@given(st.integers(0, 3000 * SPAN_ROWS), st.none() | st.sets(st.integers(0, 99), min_size=1))
@steadily(60)
def test_spans_are_everybody_once_and_in_order(expected: int, named: set[int] | None) -> None:
    users = None if named is None else [f"0x{n:040x}" for n in named]
    found = list(spans(expected, users))
    if users is not None:
        assert [user for span in found for user in span.users or ()] == sorted(users)
        return
    assert found[0].first is None
    assert found[-1].last is None
    edges = [span.last for span in found[:-1]]
    assert edges == [span.first for span in found[1:]]
    assert all(edge is not None for edge in edges)
    assert edges == sorted(set(edges), key=str)
    assert len(found) >= expected / SPAN_ROWS / 2


def quoted(value: str) -> str:
    """As the server writes it: unlike Python's writer it quotes a carriage return, too."""
    return '"' + value.replace('"', '""') + '"' if set(value) & set('",\r\n') else value


@given(st.lists(st.lists(text, min_size=3, max_size=3), max_size=5))
@example([["", "\r", ""]])
@steadily(100)
def test_a_row_of_csv_is_one_row_whatever_is_in_it(rows: list[list[str]]) -> None:
    listed = [[f"u{n}", "2024-03-01", *row] for n, row in enumerate(rows)]
    block = "".join(",".join(map(quoted, row)) + "\n" for row in listed).encode()
    found = list(lines.records(block))
    assert b"".join(found) == block
    assert [(lines.user_of(one), lines.month_of(one)) for one in found] == [
        (f"u{n}", "2024-03") for n in range(len(rows))
    ]
    assert lines.rows_in(block) == len(rows)


@pytest.mark.timescaledb
def test_chunks_in_the_columnstore_are_exported_alike(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        await fill_table(migrated_url, ordinary(900))
        expected = await table(migrated_url)
        enabled = await ask(
            migrated_url,
            "SELECT compression_enabled FROM timescaledb_information.hypertables WHERE hypertable_name = 'fills'",
        )
        assert enabled is not None
        if not enabled:
            await tell(migrated_url, "ALTER TABLE fills SET (timescaledb.compress_segmentby = 'user_address')")
        packed = await ask(migrated_url, "SELECT count(compress_chunk(c)) FROM show_chunks('fills') AS c")
        assert packed > 1
        await tell(migrated_url, "UPDATE fills SET fee = 7.25 WHERE tid = 3")  # one that is not packed any more
        expected = await table(migrated_url)
        await export(migrated_url, Directory(tmp_path / "out"), partition=Partition.USER)
        back = [one for path in made(tmp_path / "out").files.values() for one in read_parquet(path)]
        assert back == expected

    run(scenario())
