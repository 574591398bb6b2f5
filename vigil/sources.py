"""Where fills come from: the exchange itself, and hosts that speak its protocol under other limits.

The exchange is the source `hyperliquid`; its values are settings. Others stand in a TOML file
(`VIGIL_SOURCES_FILE`, see `docs/sources.md`), a table `[sources.NAME]` each. The values of their
headers are secrets: they are in requests to that host and nowhere else. This room reads the file
and checks it; it asks nobody.
"""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from vigil.errors import UsageError
from vigil.settings import ENV_FILE, Settings, http_url, shown_url

MAIN_SOURCE = "hyperliquid"
"""The exchange itself."""

FROM_ENVIRONMENT = "env:"
"""A header value that begins so names the variable that holds it, so that secrets need not stand in the file."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_OURS = frozenset({"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host"})
_SHORTEST_SECRET = 4
"""Characters. What is shorter hides nothing, and would black out half of a sentence."""


class Source(BaseModel):
    """A host, what it charges, and how much it allows one address. Weights and rows as that host counts them."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )

    name: str
    api_url: str
    """Where to POST; requests and answers are those of the exchange's `info` endpoint."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent with each request to this host."""
    weight_per_minute: int = 1200
    """Weight that one address may spend in a period (`VIGIL_WEIGHT_PERIOD_SECONDS`)."""
    base_weight: int = Field(default=20, ge=1)
    """Charged when a request arrives."""
    rows_per_weight: int = Field(default=20, ge=1)
    """Rows of an answer that one more unit of weight buys."""
    page_rows: int = Field(default=2000, ge=100)
    """Rows of a full page. Too small costs requests; too large ends a history at its first page."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """A cap on requests a period, evenly spaced, on top of the weight."""
    keeps_all: bool = False
    """Whether it has every fill there ever was, so that what it serves is whole."""
    twap: bool = True
    """Whether it serves the list of TWAP slices too."""

    @property
    def is_main(self) -> bool:
        return self.name == MAIN_SOURCE

    @property
    def shown_api_url(self) -> str:
        """The URL for people: a password or key that somebody put into it stays out of logs."""
        return shown_url(self.api_url)

    def lane(self, lane: str) -> str:
        """An address at this host: its budget is no other host's."""
        return lane if self.is_main else f"{self.name}@{lane}"

    def redact(self, text: str) -> str:
        """`text` without the secrets that this host was told, should it repeat them."""
        told = {value.get_secret_value() for value in self.headers.values()}
        words = {word for value in told for word in (value, *value.split()) if len(word) >= _SHORTEST_SECRET}
        for word in sorted(words, key=len, reverse=True):
            text = text.replace(word, "***")
        return text

    @field_validator("api_url")
    @classmethod
    def _http_only(cls, url: str) -> str:
        return http_url(url)

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"{name!r} can't be set")
            if not _VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"the value of {name} must be printable ASCII, without blanks around it")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("a header is given twice")
        return headers

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        if self.weight_per_minute < self.base_weight:
            raise ValueError(f"weight_per_minute {self.weight_per_minute} buys no request of {self.base_weight}")
        return self


KEYS = frozenset(Source.model_fields) - {"name"}
"""What a table of the file may hold."""


def main_source(settings: Settings) -> Source:
    """The exchange itself."""
    return Source(
        name=MAIN_SOURCE,
        api_url=settings.api_url,
        weight_per_minute=settings.weight_per_minute,
        requests_per_minute=settings.requests_per_minute,
    )


def load_source(settings: Settings, name: str) -> Source:
    """The source of this name, from the file that the settings name.

    Raises: UsageError saying what is wrong with the name, the file or the source, never a header's value.
    """
    if name == MAIN_SOURCE:
        return main_source(settings)
    path = settings.sources_file
    tables = _tables(_read(path, name), path)
    if name not in tables:
        known = ", ".join(sorted(tables)) or "none"
        raise UsageError(
            f"--source {name!r}: {path} has no such source (it has: {known}).", hint="See docs/sources.md."
        )
    return _source(name, tables[name], path)


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(
            f"--source {name!r}: there is no file {path} (VIGIL_SOURCES_FILE).", hint="See docs/sources.md."
        ) from None
    except OSError as error:
        raise UsageError(f"{path} (VIGIL_SOURCES_FILE) can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at [^()]*\)$", str(error))  # the rest of its message might quote a value
        raise UsageError(f"{path} is no TOML{f' {place[0]}' if place else ''}.") from None


def _tables(content: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The tables of all sources. Raises: UsageError for what is no source, or has keys that mean nothing."""
    tables = content.get("sources", {})
    if not isinstance(tables, dict) or any(not isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{path}: `sources` must hold a table for each source: [sources.NAME].")
    for key in content:
        if key != "sources":
            raise UsageError(f"{path}: {key!r} means nothing there.", hint="Each source is a table [sources.NAME].")
    for name, table in tables.items():
        if name == MAIN_SOURCE:
            hint = "Its values are settings: VIGIL_API_URL, VIGIL_WEIGHT_PER_MINUTE."
            raise UsageError(f"{path}: {MAIN_SOURCE} is the exchange itself and can't be described there.", hint=hint)
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: {name!r} is no name for a source: letters, digits, `_`, `.` and `-` only.")
        for key in table:
            if key not in KEYS:
                close = get_close_matches(key, KEYS, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"Keys: {', '.join(sorted(KEYS))}."
                raise UsageError(f"{path}: [sources.{name}] {key} is no key of a source.", hint=hint)
    return tables


def _source(name: str, table: dict[str, Any], path: Path) -> Source:
    where = f"{path}: [sources.{name}]"
    headers = table.get("headers", {})
    if isinstance(headers, dict):
        headers = {header: _resolved(value, f"{where} headers.{header}") for header, value in headers.items()}
    try:
        return Source.model_validate({**table, "headers": headers, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        told = f"{place}: {reason}" if place and first["type"] != "missing" else f"{place} {reason}".strip()
        raise UsageError(f"{where} {told}.", hint="See docs/sources.md.") from None


def _resolved(value: Any, where: str) -> Any:
    """A header's value, from the environment or `.env` if it says so."""
    if not isinstance(value, str) or not value.startswith(FROM_ENVIRONMENT):
        return value
    variable = value.removeprefix(FROM_ENVIRONMENT).strip()
    if found := os.environ.get(variable) or dotenv_values(ENV_FILE).get(variable):
        return found
    raise UsageError(f"{where} is to come from the variable {variable}, which is not set.")
