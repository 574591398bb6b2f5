"""The house keeps its word: what the documents say is shown is shown, and no fault is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.kit.database import REPOSITORY
from vigil.errors import Fault

ERRORS = REPOSITORY / "docs" / "errors.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
NAMED = re.compile(r"`(test_\w+)(?:\[[^\]`]*\])?`")


def claims_of(text: str) -> set[str]:
    """The test functions that a module defines."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name for node in ast.walk(ast.parse(text)) if isinstance(node, functions) and node.name.startswith("test_")
    }


@cache
def all_tests() -> set[str]:
    return {name for file in (REPOSITORY / "tests").rglob("test_*.py") for name in claims_of(file.read_text("utf-8"))}


def rows_of(page: str) -> list[tuple[list[str], list[str]]]:
    """Every row of every table: the header's cells and its own."""
    rows: list[tuple[list[str], list[str]]] = []
    header: list[str] | None = None
    for line in page.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if header is None:
            header = cells
        elif not set(line) <= set("|-"):
            rows.append((header, cells))
    return rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_named_in_the_documents_exists(page: Path) -> None:
    assert set(NAMED.findall(page.read_text("utf-8"))) - all_tests() == set()


def test_the_pages_that_promise_name_tests() -> None:
    assert len(set(NAMED.findall(ERRORS.read_text("utf-8")))) > 40
    promises = (REPOSITORY / "docs" / "guarantees.md").read_text("utf-8").partition("## Limits")[0]
    rows = rows_of(promises)
    assert len(rows) > 12
    assert [cells[0] for header, cells in rows if len(cells) != len(header) or not NAMED.search(cells[-1])] == []


def test_every_row_of_the_table_of_errors_is_whole_and_names_a_test() -> None:
    rows = rows_of(ERRORS.read_text("utf-8"))
    assert len(rows) > 40
    for header, cells in rows:
        assert header[-1] == "tests"
        assert len(cells) == len(header), cells
        assert all(cells), cells
        assert NAMED.search(cells[-1]), cells


def test_every_fault_is_a_counter_in_the_table_of_errors() -> None:
    counters = " ".join(
        cells[header.index("counter")] for header, cells in rows_of(ERRORS.read_text("utf-8")) if "counter" in header
    )
    assert {fault for fault in Fault if f"`{fault}`" not in counters} == set()


def test_the_check_would_notice_a_test_that_is_gone() -> None:
    assert claims_of("def test_a(): ...\nclass C:\n    async def test_b(self): ...\n'def test_c(): ...'") == {
        "test_a",
        "test_b",
    }
    assert NAMED.findall("`test_a`, `test_b[x y]`, test_c, `[d]`") == ["test_a", "test_b"]
