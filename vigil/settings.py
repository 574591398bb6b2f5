"""Every setting: name, unit, default and why. Flag > environment > `.env` > default.

`.env.example` lists the same settings for people (a test compares the two). This room
knows nothing of the rest of the house but its errors.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vigil.errors import UsageError
from vigil.logs import LogFormat

API_URL = "https://api.hyperliquid.xyz/info"

ENV_FILE = ".env"

DEFAULT_START = "2023-01-01"
"""Before the first fill there is: the closed alpha began in early 2023, and an earlier start costs no weight."""

DEFAULT_END = "2025-07-27"
"""Where the public archives by block begin (exclusive, UTC), so where a backfill from the API may end."""


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "vigil"


def http_url(url: str) -> str:
    """`url`, if it is one to ask. Raises: ValueError."""
    if not re.fullmatch(r"https?://[^\s/?#]+(/\S*)?", url):
        raise ValueError("must be an http:// or https:// URL")
    return url


def shown_url(url: str) -> str:
    """`url` without what may be secret in it: user, password, query."""
    return re.sub(r"//[^/@]*@", "//", url).split("?", 1)[0]


class Settings(BaseSettings):
    """All settings, read from `VIGIL_*` variables; build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="VIGIL_",
        env_file=ENV_FILE,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    database_url: SecretStr | None = None
    """Where the fills go, a `postgresql://` DSN; unset: an embedded Postgres under `data_dir`."""
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Directory of the embedded Postgres."""

    api_url: str = Field(API_URL, validation_alias=AliasChoices("VIGIL_API_URL", "HL_API_URL"))
    """The exchange's `info` endpoint (`HL_API_URL` is the original plan's name for it)."""
    weight_per_minute: int = Field(1200, ge=20)
    """Weight the exchange allows one address in one period; 20 is the price of one request."""
    weight_period_seconds: float = Field(60.0, gt=0)
    """Length of the exchange's "minute"; shorter only against a simulator, to rehearse hours in seconds."""
    requests_per_minute: float | None = Field(
        None, gt=0, validation_alias=AliasChoices("HL_API_REQUESTS_PER_MINUTE", "VIGIL_REQUESTS_PER_MINUTE")
    )
    """The original plan's cap on requests a period, evenly spaced; honoured on top of the weight if set."""
    sources_file: Path = Path("sources.toml")
    """Describes further hosts for `--source` (docs/sources.md); read only when one is named."""
    concurrency: int = Field(8, ge=1, le=1024)
    """Users paged at the same time by each lane; the weight is the wall, so more only hides latency."""

    connect_timeout_seconds: float = Field(10.0, gt=0)
    """For the TCP and TLS handshake of a request."""
    request_timeout_seconds: float = Field(90.0, gt=0)
    """For a whole request: answers that dripped for 30-70 s have been measured."""
    request_tries: int = Field(6, ge=1)
    """Tries of one request that meets error pages, cut bodies or silence; each pays its weight."""
    retry_max_seconds: float = Field(30.0, gt=0)
    """Longest wait between two tries, and longest pause of the worker after repeated 429s is twice this."""
    startup_patience_seconds: float = Field(5.0, ge=0)
    """How long a run that has not had one answer yet waits for an unreachable exchange before it says so."""
    outage_patience_seconds: float = Field(900.0, ge=0)
    """How long a run waits for an exchange that no longer answers before it stops, resumable."""
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    """Answers larger than this are refused unread: a full page has 0.7 MB."""
    indexer_lag_seconds: float = Field(5.0, ge=0)
    """A window ends at least this long before now: the exchange's index lags 0.5-2 s behind its trades."""

    batch_rows: int = Field(20_000, ge=1)
    """A batch is committed at this many rows: larger ones were measured to be no faster."""
    batch_bytes: int = Field(16 * 1024 * 1024, ge=1)
    """... or at this many bytes of JSON ..."""
    batch_seconds: float = Field(1.0, ge=0)
    """... or when its first page has waited this long: what a crash can cost to fetch again."""
    queue_pages: int = Field(16, ge=1)
    """Pages that may wait for the writer; when full, a slow database slows the fetch."""
    database_timeout_seconds: float = Field(120.0, gt=0)
    """For one commit or statement: a server that answers nothing for so long is treated as gone."""
    database_patience_seconds: float = Field(300.0, ge=0)
    """How long a run waits for a database that went away; at start-up a tenth of it."""
    lease_seconds: float = Field(120.0, ge=1)
    """A worker unheard of for this long is dead: others take over its users, and it may commit nothing."""
    lane: str = Field(default_factory=socket.gethostname, min_length=1)
    """The address this worker asks from: an IP of this machine, a proxy's URL or any name (vigil/egress.py). Several,
    separated by commas, are used side by side. Workers of one lane share one budget."""
    user_attempts: int = Field(3, ge=1)
    """Failed tries after which a user is parked: passed over until `vigil-backfill retry`."""
    drain_seconds: float = Field(20.0, ge=0)
    """After the first SIGINT or SIGTERM: time to commit what is queued, before the rest is dropped."""
    maintain: bool = True
    """Whether a run that wrote something ends with what `maintain` does, if it is the last one at work."""
    fills_columns: str = ""
    """Columns of a table `fills` that `migrate --adopt` finds under other names: `user_address=user,time=time_ms`."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Where a run serves /metrics, /healthz and /readyz; 0 takes a free port."""
    progress_seconds: float = Field(30.0, gt=0)
    """Between two progress lines when the output is not a terminal."""
    log_format: LogFormat = LogFormat.AUTO
    """How log lines look: sentences on a terminal and JSON elsewhere, or always one of them; JSON is for all talk."""

    @property
    def shown_api_url(self) -> str:
        """The URL for people: a password or key that somebody put into it stays out of logs."""
        return shown_url(self.api_url)

    @field_validator("data_dir", "sources_file")
    @classmethod
    def _home(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("lane", mode="before")
    @classmethod
    def _several(cls, lane: object) -> object:
        """A flag that was given more than once is a list."""
        return ",".join(lane) if isinstance(lane, list) else lane

    @field_validator("api_url")
    @classmethod
    def _http_only(cls, url: str) -> str:
        return http_url(url)

    @field_validator("database_url")
    @classmethod
    def _postgres_only(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"postgres(ql)?://", url.get_secret_value()):
            raise ValueError("must begin with postgresql://")
        if url is not None:
            hosts = urlsplit(url.get_secret_value()).netloc.rpartition("@")[2]
            ports = [re.search(r":([^:\]]*)$", host) for host in hosts.split(",")]
            if any(port and port[1] and not (port[1].isdecimal() and int(port[1]) < 65536) for port in ports):
                raise ValueError("its port is no number below 65536")
        return url


_NAMES = {
    **dict.fromkeys(("VIGIL_API_URL", "HL_API_URL", "api_url"), "VIGIL_API_URL or HL_API_URL"),
    **dict.fromkeys(
        ("HL_API_REQUESTS_PER_MINUTE", "VIGIL_REQUESTS_PER_MINUTE", "requests_per_minute"),
        "HL_API_REQUESTS_PER_MINUTE or VIGIL_REQUESTS_PER_MINUTE",
    ),
}
"""What the variable of a field may have been called, where that is more than one name."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` that are not None (the flags) win over the environment.

    Raises: UsageError naming the variable, never its value when that is secret; also for a variable
    that is no setting but nearly one.
    """
    given = {name: value for name, value in overrides.items() if value not in (None, [])}
    try:
        _refuse_typos([*os.environ, *dotenv_values(ENV_FILE)])
        return Settings(**given)
    except UnicodeDecodeError as error:
        raise UsageError(f".env is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        name = _NAMES.get(field, f"VIGIL_{field.upper()}")
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if field in ("database_url", "api_url", "lane") else f" (it is {first['input']!r})"
        raise UsageError(f"{name}: {reason}{shown}.", hint="See .env.example for every setting.") from None


def _refuse_typos(names: Iterable[str]) -> None:
    """A setting that is misspelt would be passed over silently, and the run would not do what was asked."""
    known = {f"VIGIL_{field.upper()}" for field in Settings.model_fields}
    known |= {"HL_API_URL", "HL_API_REQUESTS_PER_MINUTE", "VIGIL_TEST_DATABASE_URL"}
    for name in names:
        if not name.upper().startswith(("VIGIL_", "HL_API_")) or name.upper() in known:
            continue
        for close in get_close_matches(name.upper(), known, n=1, cutoff=0.85):
            raise UsageError(f"{name} is no setting.", hint=f"Did you mean {close}? .env.example lists them all.")


def parse_instant(text: str, *, flag: str) -> int:
    """Milliseconds since epoch of an ISO date or datetime (UTC unless it names an offset), or of plain ms.

    Raises: UsageError for anything else, naming `flag`.
    """
    if re.fullmatch(r"0|[0-9]{11,15}", text):  # shorter ones are dates (20240301) or mistakes (2024)
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} is neither an ISO date nor milliseconds since 1970.",
            hint="For example 2024-03-01, 2024-03-01T12:00:00Z or 1709251200000.",
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return round(instant.timestamp() * 1000)
