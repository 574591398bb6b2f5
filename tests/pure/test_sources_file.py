"""The sources file and what other hosts' numbers change: prices, pages, lanes. No network, no database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import bursts, history, page_of, steadily
from vigil.cursor import Walk
from vigil.errors import UsageError
from vigil.lanes import fair_share
from vigil.limiter import EXCHANGE_PRICES, FULL_PAGE_WEIGHT, Budget, Prices, page_weight
from vigil.settings import load_settings
from vigil.sources import MAIN_SOURCE, Source, load_source, main_source

SECRET = "geheim-4714"
URL = 'api_url = "https://other.example/info"\n'
OTHER = f"[sources.other]\n{URL}"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def described(text: str, name: str = "other") -> Source:
    Path("sources.toml").write_text(text)
    return load_source(load_settings(), name)


def test_a_source_is_what_its_table_says_and_the_exchange_s_numbers_where_it_says_nothing() -> None:
    told = described(
        OTHER
        + f'headers = {{ Authorization = "Bearer {SECRET}" }}\nweight_per_minute = 700\nbase_weight = 30\n'
        + "rows_per_weight = 7\npage_rows = 1234\nrequests_per_minute = 40\ntwap = false\n"
    )
    assert (told.name, told.api_url, told.is_main) == ("other", "https://other.example/info", False)
    assert told.headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"
    assert (told.weight_per_minute, told.base_weight, told.rows_per_weight) == (700, 30, 7)
    assert (told.page_rows, told.requests_per_minute, told.twap) == (1234, 40.0, False)
    bare, exchange = described(OTHER), main_source(load_settings())
    same = {"name", "api_url"}
    assert bare.model_dump(exclude=same) == exchange.model_dump(exclude=same)


def test_the_exchange_is_a_source_by_its_settings_and_needs_no_file() -> None:
    settings = load_settings(api_url="http://127.0.0.1:1/info", weight_per_minute=600, requests_per_minute=9.0)
    source = load_source(settings, MAIN_SOURCE)
    assert source == main_source(settings)
    assert (source.api_url, source.weight_per_minute, source.requests_per_minute) == (settings.api_url, 600, 9.0)
    assert (source.is_main, source.headers) == (True, {})


def test_a_secret_may_stand_in_the_environment_or_in_dot_env(monkeypatch: pytest.MonkeyPatch) -> None:
    text = OTHER + 'headers = { X-Key = "env:OTHER_KEY" }\n'
    with pytest.raises(UsageError, match=r"headers\.X-Key is to come from the variable OTHER_KEY, which is not set"):
        described(text)
    Path(".env").write_text("OTHER_KEY=from-the-file\n")
    assert described(text).headers["X-Key"].get_secret_value() == "from-the-file"
    monkeypatch.setenv("OTHER_KEY", "from-the-environment")
    assert described(text).headers["X-Key"].get_secret_value() == "from-the-environment"


def test_another_source_s_missing_variable_is_in_nobody_s_way() -> None:
    assert described(OTHER + f'[sources.third]\n{URL}headers = {{ X-Key = "env:NOT_THERE" }}\n').name == "other"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (OTHER.replace("other]", "third]"), "'other': sources.toml has no such source (it has: third)"),
        ("", "'other': sources.toml has no such source (it has: none)"),
        ("[sources.other]\n", "[sources.other] api_url is missing"),
        ('[sources.other]\napi_url = "ftp://x/"\n', "[sources.other] api_url: must be an http:// or https:// URL"),
        (OTHER + "wieght_per_minute = 3\n", "[sources.other] wieght_per_minute is no key of a source"),
        (OTHER + 'name = "third"\n', "[sources.other] name is no key of a source"),
        (OTHER + 'weight_per_minute = "700"\n', "[sources.other] weight_per_minute: Input should be a valid integer"),
        (OTHER + "twap = 1\n", "[sources.other] twap: Input should be a valid boolean"),
        (OTHER + "page_rows = 10\n", "[sources.other] page_rows: Input should be greater than or equal to 100"),
        (OTHER + "requests_per_minute = nan\n", "[sources.other] requests_per_minute: Input should be"),
        (OTHER + "weight_per_minute = 19\n", "[sources.other] weight_per_minute 19 buys no request of 20"),
        (OTHER + f'headers = "{SECRET}"\n', "[sources.other] headers: Input should be a valid dictionary"),
        (OTHER + "headers = { X-Key = 4714 }\n", "[sources.other] headers.X-Key: Input should be a valid string"),
        (OTHER + f'headers = {{ X-Key = "{SECRET}\\n" }}\n', "headers: the value of X-Key must be printable ASCII"),
        (OTHER + f'headers = {{ "X Key" = "{SECRET}" }}\n', "headers: 'X Key' can't be set"),
        (OTHER + f'headers = {{ Host = "{SECRET}" }}\n', "headers: 'Host' can't be set"),
        (OTHER + f'headers = {{ X-Key = "{SECRET}", x-key = "1" }}\n', "headers: a header is given twice"),
        (OTHER.replace("other]", "hyperliquid]"), "hyperliquid is the exchange itself and can't be described there"),
        (OTHER + f"[sources.'a b']\n{URL}", "'a b' is no name for a source"),
        (OTHER + "[source.third]\n", "'source' means nothing there"),
        ("sources = 3\n", "`sources` must hold a table for each source"),
        (OTHER + f'headers = {{ X-Key = "{SECRET} }}\n', "sources.toml is no TOML (at line 3, column"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence_without_its_secrets(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        described(text)
    assert sentence in str(caught.value)
    assert SECRET not in str(caught.value) + caught.value.hint
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_can_t_be_read_is_named() -> None:
    with pytest.raises(UsageError, match=r"there is no file sources\.toml \(VIGIL_SOURCES_FILE\)"):
        load_source(load_settings(), "other")
    with pytest.raises(UsageError, match=r"can't be read: Is a directory"):
        load_source(load_settings(sources_file=Path()), "other")
    Path("latin").write_bytes(b"[sources.\xe9]")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_source(load_settings(sources_file=Path("latin")), "other")


def test_a_source_shows_no_secret_and_blacks_out_what_a_host_repeats() -> None:
    source = described(
        f'[sources.other]\napi_url = "https://{SECRET}:x@other.example/info?key={SECRET}"\n'
        f'headers = {{ Authorization = "Bearer {SECRET}", X-Version = "2" }}\n'
    )
    assert source.shown_api_url == "https://other.example/info"
    assert SECRET not in repr(source.headers) + str(source.headers)
    assert source.redact(f"no such key: Bearer {SECRET}, {SECRET}; 2 left") == "no such key: ***, ***; 2 left"


def test_addresses_at_different_hosts_are_different_lanes() -> None:
    assert main_source(load_settings()).lane("home") == "home"
    assert described(OTHER).lane("home") == "other@home"


def test_another_weight_table_is_accounted_to_the_unit() -> None:
    prices = Prices(base=30, rows_per_weight=7, page_rows=730)
    weights = {rows: prices.page(rows) for rows in (0, 1, 7, 8, 730)}
    assert weights == {0: 30, 1: 31, 7: 31, 8: 32, 730: prices.full_page}
    assert (prices.full_page, prices.overshoot) == (135, 105)
    assert (EXCHANGE_PRICES.full_page, EXCHANGE_PRICES.page(1999)) == (FULL_PAGE_WEIGHT, page_weight(1999))


def test_a_budget_admits_what_fits_under_the_host_s_own_prices() -> None:
    budget = Budget(700, 60.0, prices=Prices(30, 7, 730))
    admitted = 0
    while budget.delay(0.0) == 0:
        budget.admit()
        admitted += 1
    assert admitted == 1 + (700 - 30) // 135  # all but the last at their worst, the last on arrival
    budget.settle(0.0, 31)
    assert budget.claimed(0.0) == 31 + (admitted - 1) * 135
    budget.settle(0.0, None)
    assert budget.used(0.0) == 31 + 135


def test_a_share_pays_for_the_overshoot_of_the_host_s_pages() -> None:
    prices = Prices(30, 7, 730)
    assert fair_share(700, hungry=True, others_hungry=1, prices=prices) == (700 - 105) // 2
    assert fair_share(60, hungry=True, others_hungry=1, prices=prices) == 30


def read(rows: list[dict[str, object]], cap: int, page_rows: int) -> tuple[list[int], int]:
    """The `tid`s that a walk brings from a host with pages of `cap` rows, told that they have `page_rows`."""
    walk, found, requests = Walk(0, 10**15, page_rows=page_rows), list[int](), 0
    while not walk.done:
        page = page_of([row for row in rows if row["time"] >= walk.cursor_ms][:cap])  # type: ignore[operator]
        found += [fill.tid or 0 for fill in walk.take(page).fills]
        requests += 1
    return found, requests


@steadily(60)
@given(
    cap=st.integers(100, 137),
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 99)), min_size=1, max_size=12),
)
def test_pages_of_an_odd_size_end_no_history_early(cap: int, sizes: list[tuple[int, int]]) -> None:
    rows = bursts(sizes)
    assert read(rows, cap, cap)[0] == [row["tid"] for row in rows]


@pytest.mark.parametrize(
    ("page_rows", "rows", "requests"),
    [(1234, 1233, 1), (1234, 1234, 2), (1234, 2466, 2), (5000, 4321, 1), (5000, 2000, 2), (5000, 5000, 2)],
)
def test_a_host_is_asked_once_more_only_after_a_page_that_may_be_cut(page_rows: int, rows: int, requests: int) -> None:
    found, asked = read(history(range(rows)), page_rows, page_rows)
    assert (len(found), asked) == (rows, requests)


def test_told_too_small_a_page_a_walk_asks_more_and_loses_nothing() -> None:
    rows = history(range(2500))
    found, asked = read(rows, 1234, 700)
    assert len(found) == len(rows)
    assert asked == 3
