"""Addresses and their shards; settings, their precedence and the errors about them."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices

from tests.kit.factories import steadily
from vigil.address import normalize_address, read_addresses, shard_of
from vigil.errors import UsageError
from vigil.settings import Settings, load_settings, parse_instant

ADDRESS = "0xaf0fdd39e5d92499b0ed9f68693da99c0ec1e92e"
EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [ADDRESS, ADDRESS.upper(), f"  {ADDRESS}\r\n", "0x" + ADDRESS[2:].upper(), f"\t{ADDRESS}"]
)
def test_an_address_is_kept_in_lower_case_without_the_space_around_it(text: str) -> None:
    assert normalize_address(text) == ADDRESS


@pytest.mark.parametrize(
    "text",
    [
        "", "0x", ADDRESS[2:], ADDRESS[:-1], ADDRESS + "0", "0x" + "g" * 40, "1x" + ADDRESS[2:], f"{ADDRESS} {ADDRESS}",
        ADDRESS[:20] + " " + ADDRESS[21:], f"{ADDRESS}\n0", "0x" + "\u0661" * 40, "0x" + "\uff11" * 40, "vitalik.eth",
    ],
)  # fmt: skip
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not a user's address") as caught:
        normalize_address(text)
    assert caught.value.hint


def test_a_bad_address_is_shown_but_not_at_any_length() -> None:
    with pytest.raises(UsageError) as caught:
        normalize_address("z" * 10_000)
    assert len(str(caught.value)) < 200


def test_a_file_of_addresses_may_hold_blank_lines_comments_and_a_byte_order_mark() -> None:
    other = "0x" + "1" * 40
    lines = [
        f"\ufeff{ADDRESS.upper()}\r\n",
        "\n",
        "   \n",
        "# a comment\n",
        f"  {other}  # the second\n",
        f"{ADDRESS}#",
    ]
    assert list(read_addresses(lines, source="users.txt")) == [ADDRESS, other, ADDRESS]


@pytest.mark.parametrize("line", [1, 2, 7])
def test_a_bad_line_is_named_by_file_and_number(line: int) -> None:
    lines = [f"{ADDRESS}\n"] * (line - 1) + ["0xoops\n", f"{ADDRESS}\n"]
    with pytest.raises(UsageError, match=rf"^users\.txt, line {line}: '0xoops' is not a user's address\.$") as caught:
        list(read_addresses(lines, source="users.txt"))
    assert "40 hex digits" in caught.value.hint


def test_addresses_are_read_as_they_are_needed() -> None:
    assert next(read_addresses([ADDRESS, "bad"], source="users.txt")) == ADDRESS


# -- shards ----------------------------------------------------------------------------------------


def test_shards_are_the_same_everywhere_and_for_ever() -> None:
    """Literal values: workers of different versions must not both leave a user to the other."""
    pinned = {ADDRESS: 1_379_834_242, "0x" + "0" * 40: 3_729_246_642, "0x" + "f" * 40: 2_592_984_383}
    assert {address: shard_of(address, 2**32) for address in pinned} == pinned
    assert [shard_of(ADDRESS, workers) for workers in (1, 2, 3, 7, 50)] == [0, 0, 0, 2, 16]


def test_every_user_has_one_worker_and_the_workers_have_about_the_same_number() -> None:
    addresses = [f"0x{number:040x}" for number in range(10_000)]
    for workers in range(1, 51):
        users = Counter(shard_of(address, workers) for address in addresses)
        mean = len(addresses) / workers
        assert users.keys() == set(range(workers))
        assert max(abs(count - mean) for count in users.values()) <= 5 * mean**0.5


# -- instants --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2024-03-01", 1_709_251_200_000),
        ("2024-03-01T12:00:00Z", 1_709_294_400_000),
        ("2024-03-01T12:00:00", 1_709_294_400_000),
        ("2024-03-01 12:00", 1_709_294_400_000),
        ("2024-03-01T12:00:00+02:00", 1_709_287_200_000),
        ("2024-03-01T12:00:00-05:30", 1_709_314_200_000),
        ("2024-03-01T12:00:00.007Z", 1_709_294_400_007),
        ("1709251200000", 1_709_251_200_000),
        ("1970-01-01", 0),
        ("0", 0),
    ],
)
def test_an_instant_is_an_iso_date_a_datetime_or_milliseconds(text: str, ms: int) -> None:
    assert parse_instant(text, flag="--start") == ms


@pytest.mark.parametrize(
    "text", ["", " ", "yesterday", "2024-13-01", "2024-02-30", "2024-03-01T25:00", "-5", "1.5", "1e12", "1" * 16, "NaN"]
)
def test_anything_else_is_no_instant_and_the_error_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--end '") as caught:
        parse_instant(text, flag="--end")
    assert repr(text) in str(caught.value)
    assert "2024-03-01" in caught.value.hint


@given(
    st.text(max_size=20) | st.from_regex(r"[0-9]{1,4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})?)?")
)
@steadily(200)
def test_any_text_is_an_instant_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert isinstance(parse_instant(text, flag="--start"), int)


@given(st.datetimes(timezones=st.timezones()))
@steadily(50)
def test_milliseconds_since_1970_do_not_depend_on_how_the_instant_is_written(instant: Any) -> None:
    whole = instant.replace(microsecond=instant.microsecond // 1000 * 1000, fold=0)
    assert parse_instant(whole.isoformat(), flag="--start") == round(whole.timestamp() * 1000)


@pytest.mark.parametrize("text", ["20240301", "2024"])
def test_a_date_without_dashes_is_not_taken_for_milliseconds_of_1970(text: str) -> None:
    with suppress(UsageError):
        assert parse_instant(text, flag="--end") > 1_000_000_000_000


# -- settings --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without settings, and a directory without `.env`."""
    for name in os.environ:
        if name.upper().startswith(("VIGIL_", "HL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().concurrency == 8
    Path(".env").write_text("VIGIL_CONCURRENCY=2\n")
    assert load_settings().concurrency == 2
    monkeypatch.setenv("VIGIL_CONCURRENCY", "3")
    assert load_settings().concurrency == 3
    assert load_settings(concurrency=4).concurrency == 4
    assert load_settings(concurrency=None).concurrency == 3


NAMES = [
    ("api_url", "VIGIL_API_URL", "HL_API_URL", [f"http://{host}/info" for host in "abc"]),
    ("requests_per_minute", "VIGIL_REQUESTS_PER_MINUTE", "HL_API_REQUESTS_PER_MINUTE", [1.0, 2.5, 3.0]),
]


@pytest.mark.parametrize(("field", "ours", "plans", "values"), NAMES)
def test_the_plans_names_are_accepted_and_obey_the_same_precedence(
    field: str, ours: str, plans: str, values: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for low, high in [(ours, plans), (plans, ours), (plans, plans), (ours, ours)]:
        Path(".env").write_text(f"{low}={values[0]}\n")
        assert getattr(load_settings(), field) == values[0]
        with monkeypatch.context() as patched:
            patched.setenv(high, str(values[1]))
            assert getattr(load_settings(), field) == values[1], (low, high)
            assert getattr(load_settings(**{field: values[2]}), field) == values[2], (low, high)


def test_empty_variables_and_foreign_lines_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_CONCURRENCY", "")
    monkeypatch.setenv("VIGIL_NEVER_HEARD_OF", "1")
    Path(".env").write_text("# a comment\nPATH=/nowhere\nVIGIL_BATCH_ROWS=7\n")
    settings = load_settings()
    assert (settings.concurrency, settings.batch_rows) == (8, 7)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VIGIL_CONCURRENCY", "many"), ("VIGIL_CONCURRENCY", "0"), ("VIGIL_CONCURRENCY", "1025"),
        ("VIGIL_WEIGHT_PER_MINUTE", "19"), ("VIGIL_LEASE_SECONDS", "0.5"), ("VIGIL_LEASE_SECONDS", "nan"),
        ("VIGIL_BATCH_SECONDS", "-1"), ("VIGIL_API_URL", "ftp://host/info"), ("VIGIL_API_URL", "host"),
        ("HL_API_REQUESTS_PER_MINUTE", "0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["environment", "file"])
def test_an_error_names_the_variable_and_shows_the_value(
    variable: str, value: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "file":
        Path(".env").write_text(f"{variable}={value}\n")
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=rf"^(\w+ or )?{variable}( or \w+)?: .*{re.escape(repr(value))}") as caught:
        load_settings()
    assert ".env.example" in caught.value.hint


def test_a_flags_error_names_its_setting() -> None:
    with pytest.raises(UsageError, match=r"^VIGIL_BATCH_ROWS: "):
        load_settings(batch_rows=0)


@pytest.mark.parametrize(("variable", "value"), [("HL_API_URL", "ftp://x"), ("VIGIL_REQUESTS_PER_MINUTE", "0")])
def test_an_error_names_the_name_that_was_used(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        load_settings()


@pytest.mark.parametrize("url", ["mysql://me:s3cret@host/db", "s3cret", "postgres:s3cret", " postgresql://s3cret"])
@pytest.mark.parametrize("place", ["environment", "file", "flag"])
def test_a_database_url_is_never_shown(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "file":
        Path(".env").write_text(f"VIGIL_DATABASE_URL='{url}'\n")
    if place == "environment":
        monkeypatch.setenv("VIGIL_DATABASE_URL", url)
    with pytest.raises(UsageError, match=r"^VIGIL_DATABASE_URL: must begin with postgresql://\.$") as caught:
        load_settings(database_url=url if place == "flag" else None)
    error = caught.value
    assert "s3cret" not in f"{error}{error.hint}{error!r}"
    assert error.__cause__ is None
    assert error.__suppress_context__  # a printed traceback would show pydantic's own message, and the value


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_good_database_url_is_kept_out_of_sight(scheme: str) -> None:
    url = f"{scheme}://me:s3cret@host/db"
    settings = load_settings(database_url=url)
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == url
    assert "s3cret" not in f"{settings!r}{settings}{settings.model_dump()}"


def test_an_env_file_that_is_not_utf_8_is_a_usage_error() -> None:
    Path(".env").write_bytes(b"# caf\xe9\n")
    with pytest.raises(UsageError, match=r"\.env"):
        load_settings()


# -- .env.example ----------------------------------------------------------------------------------


def variables_of(name: str) -> list[str]:
    """The names under which a field of Settings is read."""
    alias = Settings.model_fields[name].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [f"VIGIL_{name.upper()}"]


def shown_in(text: str) -> dict[str, str]:
    """Variable to value, of lines `NAME=value` that may be commented out and may end in a comment."""
    lines = re.findall(r"^#?\s*([A-Z][A-Z0-9_]*)=(.*)$", text, flags=re.MULTILINE)
    return {name: re.sub(r"(^|\s)#.*", "", value).strip().strip("'\"") for name, value in lines}


def undocumented(text: str) -> list[str]:
    """What `.env.example` does not say, or says wrongly, about each setting."""
    shown, faults = shown_in(text), []
    for name, field in Settings.model_fields.items():
        variables = [variable for variable in variables_of(name) if variable in shown]
        if not variables:
            faults.append(f"{variables_of(name)[0]} is missing")
            continue
        default = field.default
        if isinstance(default, (int, float, str)) and field.default_factory is None:
            try:
                same = type(default)(shown[variables[0]]) == default
            except ValueError:
                same = False
            if not same:
                faults.append(f"{variables[0]} is {default} by default, not {shown[variables[0]]!r}")
    known = {variable for name in Settings.model_fields for variable in variables_of(name)}
    return faults + [
        f"{name} is no setting" for name in shown if name.startswith(("VIGIL_", "HL_")) and name not in known
    ]


def example_of_every_default() -> str:
    shown = {
        name: field.default if field.default_factory is None else "" for name, field in Settings.model_fields.items()
    }
    return "\n".join(
        f"# {name}\n#{variables_of(name)[0]}={'' if default is None else default}" for name, default in shown.items()
    )


def test_the_comparison_with_the_example_finds_what_is_missing_wrong_or_invented() -> None:
    good = example_of_every_default()
    assert undocumented(good) == []
    assert undocumented(good.replace("VIGIL_BATCH_ROWS", "VIGIL_ROWS_BATCH")) == [
        "VIGIL_BATCH_ROWS is missing",
        "VIGIL_ROWS_BATCH is no setting",
    ]
    assert undocumented(good.replace("CONCURRENCY=8", "CONCURRENCY=9")) == [
        "VIGIL_CONCURRENCY is 8 by default, not '9'"
    ]
    assert undocumented("") == [f"{variables_of(name)[0]} is missing" for name in Settings.model_fields]


def test_every_setting_is_in_the_example_with_its_default() -> None:
    assert undocumented(EXAMPLE.read_text()) == []


def test_the_example_copied_as_it_is_changes_no_setting() -> None:
    defaults = load_settings()
    Path(".env").write_text(EXAMPLE.read_text())
    assert load_settings() == defaults
