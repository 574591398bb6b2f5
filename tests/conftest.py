"""The fixtures every test may use, and the report of what this run can't show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.database import REPOSITORY, Choice, Server, Unusable, choose, serving

_CHOICE = pytest.StashKey[Choice]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timescaledb: needs the extension; skipped on plain Postgres")
    try:
        config.stash[_CHOICE] = choose()
    except Unusable as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    path = _real_fills()
    present = path.is_dir() and any(path.iterdir())
    fills = f"real fills: {path}" if present else f"real fills: none in {path}. SKIPPED: every test of recorded answers"
    return [*config.stash[_CHOICE].header, fills]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("timescaledb") and not item.config.stash[_CHOICE].timescaledb:
        pytest.skip(f"needs TimescaleDB, and this is plain Postgres ({item.config.stash[_CHOICE].name})")


@pytest.fixture(scope="session")
def database_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    with serving(pytestconfig.stash[_CHOICE]) as server:
        yield server


@pytest.fixture
def database_url(database_server: Server) -> Iterator[str]:
    """A fresh, empty database: no migrations applied."""
    with database_server.database(migrated=False) as url:
        yield url


@pytest.fixture
def migrated_url(database_server: Server) -> Iterator[str]:
    """A fresh database with every migration applied."""
    with database_server.database(migrated=True) as url:
        yield url


@pytest.fixture(scope="session")
def real_fills() -> Path:
    """The directory of answers recorded from the exchange."""
    path = _real_fills()
    if not path.is_dir() or not any(path.iterdir()):
        pytest.skip(f"no recorded answers in {path}; set VIGIL_REAL_FILLS to their directory")
    return path


def _real_fills() -> Path:
    default = REPOSITORY.parent / "shared" / "real_fills"
    return Path(os.environ.get("VIGIL_REAL_FILLS") or default)
