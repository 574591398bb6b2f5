"""Prometheus, its alerts and Grafana's dashboard of running workers ask for metrics that there are, and in PromQL."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.core import Metric

from tests.kit.database import REPOSITORY
from tests.kit.loop import run
from vigil.errors import Fault
from vigil.forecast import Sample
from vigil.metrics import Metrics
from vigil.tally import LaneState, Tally

PROMETHEUS = REPOSITORY / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "grafana" / "dashboards" / "vigil-run.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))

OF_PROMETHEUS = {"up"}
TARGET_LABELS = {"job", "instance"}


def exposed() -> dict[str, dict[str, set[str]]]:
    """By name, the labels of what /metrics tells, and the values of those that are ours to choose."""
    forecast = Sample()
    for weight in (20, 30, 40, 50, 60):
        forecast.add(weight)
    lane = LaneState("a", 1200, 0, 0, open=True)
    tally = Tally(lanes=(lane,), users_left=9, weight_of_user=forecast)

    class Asked(Metrics):
        def tally(self) -> Tally:
            return tally

    async def scenario() -> list[Metric]:
        who = {"version": "1", "host": "h", "pid": "1"}
        return list(Asked(lambda: tally, asyncio.get_running_loop(), who).collect())

    found: dict[str, dict[str, set[str]]] = {}
    for family in run(scenario()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


EXPOSED = exposed()


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


def as_grafana_asks(expr: str) -> str:
    plain = expr.replace("$__rate_interval", "1m").replace("$__range", "3h").replace("$instance", ".*")
    assert "$" not in plain
    return plain


def selectors(expr: Any) -> Iterator[Any]:
    """Every selector in it."""
    if isinstance(expr, promql_parser.VectorSelector):
        yield expr
        return
    for name in ("vector_selector", "lhs", "rhs", "expr", "args", "param"):
        below = getattr(expr, name, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None:
                yield from selectors(one)


@pytest.mark.parametrize(("name", "expr"), list(expressions()), ids=[name for name, _ in expressions()])
def test_what_is_asked_parses_and_names_metrics_labels_and_values_that_there_are(name: str, expr: str) -> None:
    asked = list(selectors(promql_parser.parse(as_grafana_asks(expr))))
    assert {one.name for one in asked} == set(re.findall(r"\b(?:vigil_\w+|up)\b(?!\")", expr)), name
    for one in asked:
        if one.name in OF_PROMETHEUS:
            continue
        assert one.name in EXPOSED, f"{name} asks for {one.name}"
        for matcher in one.matchers.matchers:
            if matcher.name in TARGET_LABELS:
                continue
            values = EXPOSED[one.name][matcher.name]
            assert matcher.value in values, f"{name}: no {matcher.name} of {one.name} is {matcher.value!r}"


def test_every_label_that_is_added_up_by_is_one_of_some_metric_asked_for() -> None:
    for name, expr in expressions():
        labels = {
            label.strip()
            for group in re.findall(r"\b(?:by|without|on|ignoring|group_left) ?\(([^)]*)\)", expr)
            for label in group.split(",")
        }
        known = set().union(*(EXPOSED.get(metric, {}) for metric in re.findall(r"\bvigil_\w+", expr)))
        assert labels <= known | TARGET_LABELS, name


def test_every_fault_is_counted_from_the_beginning_so_that_its_first_is_an_increase() -> None:
    assert EXPOSED["vigil_faults_total"]["kind"] == set(Fault)


def test_every_alert_says_what_is_wrong_and_what_to_do_and_of_which_labels() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 8
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        said = rule["annotations"]
        assert set(said) == {"summary", "description"}
        assert set(re.findall(r"\$labels\.(\w+)", said["summary"])) <= {"instance", "lane"}
        assert "{{ $labels.instance }}" in said["summary"]


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    assert set(re.findall(r'alertname="(\w+)"', cases)) == {rule["alert"] for rule in RULES}


def test_prometheus_raises_each_alert_when_it_should_and_none_for_a_healthy_run() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: that the alerts fire is not tried")
    tried = subprocess.run(
        [promtool, "test", "rules", str(PROMETHEUS / "alerts_test.yml")], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_metric_that_there_is_is_drawn_or_watched() -> None:
    asked = {one.name for _, expr in expressions() for one in selectors(promql_parser.parse(as_grafana_asks(expr)))}
    assert asked - OF_PROMETHEUS == set(EXPOSED)


def test_panels_lie_side_by_side_and_ask_the_prometheus_chosen_above() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    source, instance = DASHBOARD["templating"]["list"]
    wanted = {"type": source["query"], "uid": f"${{{source['name']}}}"}
    asked = [instance["datasource"], *(one["datasource"] for panel in panels for one in (panel, *panel["targets"]))]
    assert all(one == wanted for one in asked)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_prometheus_scrapes_the_workers_of_the_compose_file_and_grafana_knows_it() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    worker = COMPOSE["services"]["worker"]
    assert found["names"] == ["worker"]
    assert str(found["port"]) == worker["environment"]["VIGIL_METRICS_PORT"]
    assert job["job_name"] in "".join(rule["expr"] for rule in RULES if "up{" in rule["expr"])
    assert all((PROMETHEUS / name).exists() for name in config["rule_files"])
    service = COMPOSE["services"]["prometheus"]
    assert "./prometheus:/etc/prometheus:ro" in service["volumes"]
    sources = yaml.safe_load(
        (REPOSITORY / "grafana" / "provisioning" / "datasources" / "vigil.yml").read_text("utf-8")
    )["datasources"]
    (source,) = [one for one in sources if one["type"] == "prometheus"]
    assert source["url"] == "http://prometheus:9090"
    assert DASHBOARD["templating"]["list"][0]["current"]["value"] == source["uid"]
