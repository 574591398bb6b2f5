"""The guard over the benchmarks names what fell, and nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from benchmarks.check import Ratio, fallen, load, read_ingest
from benchmarks.picture import Chart, Line
from tests.kit.database import REPOSITORY

WAS = {"speed": Ratio(0.8, "more", 0.25), "cost": Ratio(1.01, "less", 0.003), "429s": Ratio(1.0, "less", 0.0)}


@pytest.mark.parametrize("change", [{}, {"speed": 0.61}, {"speed": 7.0}, {"cost": 1.0129}, {"cost": 0.5}])
def test_what_is_better_or_within_its_tolerance_did_not_fall(change: dict[str, float]) -> None:
    now = WAS | {name: WAS[name]._replace(value=value) for name, value in change.items()}
    assert fallen(WAS, now) == {}


@pytest.mark.parametrize(("name", "value"), [("speed", 0.59), ("cost", 1.014), ("429s", 2.0)])
def test_what_fell_is_named_with_both_figures(name: str, value: float) -> None:
    told = fallen(WAS, WAS | {name: WAS[name]._replace(value=value)})
    assert list(told) == [name]
    assert f"{value:.4g}, was {WAS[name].value:.4g}" in told[name]


def test_what_is_not_measured_any_more_is_named() -> None:
    assert list(fallen(WAS, {"cost": WAS["cost"], "429s": WAS["429s"], "new": WAS["cost"]})) == ["speed"]


def test_figures_of_a_benchmark_are_read_by_name() -> None:
    ratios, rates = read_ingest("\n240 rows; as a share:\npages to rows      0.51   (61,000 rows/s; copy 120,000)\n")
    assert ratios["ingest: pages to rows"].value == 0.51
    assert rates == {"ingest: pages to rows": 61_000}
    with pytest.raises(ValueError, match="no ratios"):
        read_ingest("nothing\n")


def test_the_recorded_figures_have_no_refusals_and_keep_what_is_promised() -> None:
    recorded = load()
    promised = {name: one.value for name, one in recorded.items()}
    assert all(value == 1.0 for name, value in promised.items() if name.startswith("answers 429"))
    assert all(value <= 1.02 for name, value in promised.items() if name.startswith("fleet") and "weight" in name)
    assert any(name.startswith("ingest: ") for name in promised)


def test_every_picture_of_the_page_on_scale_is_there_and_is_one() -> None:
    page = REPOSITORY / "docs" / "scale.md"
    named = re.findall(r"\]\((scale/\w+\.svg)\)", page.read_text("utf-8"))
    assert sorted(named) == sorted(f"scale/{file.name}" for file in (page.parent / "scale").iterdir())
    for name in named:
        assert ET.parse(page.parent / name).getroot().tag.endswith("svg")


def test_a_picture_of_one_flat_line_can_be_drawn() -> None:
    chart = Chart("flat", "x", "y", [Line("zero", [(1, 0.0), (2, 0.0)])], log_x=False, log_y=False)
    assert "zero" in chart.svg()
