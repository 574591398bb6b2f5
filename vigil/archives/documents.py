"""JSON that Postgres can store, of what Parquet's columns hold. Pure."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any


def document_of(text: str) -> Any:
    """The JSON in `text`, numbers exact. Raises: ValueError when Postgres could not store it; RecursionError."""
    document = json.loads(text, parse_float=Decimal, parse_constant=_no_json)
    if "\\" in text:  # only an escape can hide what it can't store
        check_storable(document)
    return document


def as_document(value: Any) -> Any:
    """A value for JSON: a struct without its nulls, numbers exact, the rest as text."""
    if isinstance(value, dict):
        return {name: as_document(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) for one in value):  # a map
            return {str(name): as_document(one) for name, one in value}
        return [as_document(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, Decimal)) or value is None else str(value)


def check_storable(document: Any) -> None:
    """Raises: ValueError when a text in it is none that Postgres can store."""
    if isinstance(document, str):
        if "\x00" in document:
            raise ValueError("holds a NUL character, which Postgres can't store")
        document.encode()  # a lone surrogate can't be stored either: UnicodeEncodeError
    elif isinstance(document, dict):
        for name, one in document.items():
            check_storable(name)
            check_storable(one)
    elif isinstance(document, list):
        for one in document:
            check_storable(one)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
