"""The container files, as far as they can be judged without a Docker engine: schema, names, secrets, versions."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.kit.database import REPOSITORY
from vigil.cli import with_commands
from vigil.settings import Settings, load_settings

COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "Dockerfile"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]

WITHOUT_HEALTH_CHECK = {
    "roles": "ends at once",
    "migrate": "ends at once",
    "demo": "ends when it is done",
    "vigil": "a command of somebody's",
    "worker": "tells the database that it lives; what hangs is taken over",
}
OF_COMPOSE = {
    "VIGIL_POSTGRES_PASSWORD", "VIGIL_POSTGRES_PORT", "VIGIL_GRAFANA_PASSWORD", "VIGIL_GRAFANA_PORT",
    "VIGIL_PROMETHEUS_PORT",
}  # fmt: skip
REQUIRED = re.compile(r"\$\{(VIGIL_\w+):\?is not set\. Put \1=… into \.env \(docs/docker\.md\)\}")


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    """The services that run this project's image."""
    return ((name, service) for name, service in SERVICES.items() if service["image"] == "vigil-backfill")


def instructions(word: str) -> list[str]:
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    return [line.removeprefix(word).strip() for line in text.splitlines() if line.startswith(f"{word} ")]


def test_the_compose_file_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    checked = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_every_service_has_a_health_check_or_a_reason_for_none() -> None:
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    assert without == set(WITHOUT_HEALTH_CHECK)


def test_every_image_is_pinned_and_python_is_one_that_the_project_takes() -> None:
    for image in {service["image"] for service in SERVICES.values()} - {"vigil-backfill"}:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image
    bases = {line.split()[0] for line in instructions("FROM")}
    assert len(bases) == 1, "what is built in one stage must run in the other"
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", bases.pop())
    assert version
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    lowest = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    assert lowest
    assert (int(version[1]), int(version[2])) >= (int(lowest[1]), int(lowest[2]))


def test_no_secret_is_written_down_and_a_missing_one_is_named_with_where_to_put_it() -> None:
    secrets = [
        (service, value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if "PASSWORD" in name
    ]
    assert len(secrets) > 8
    for _, value in secrets:
        assert REQUIRED.fullmatch(value), value
    for path in (COMPOSE, DOCKERFILE, *(REPOSITORY / "grafana").rglob("*.*"), *(REPOSITORY / "docker").iterdir()):
        text = path.read_text("utf-8")
        assert not re.search(r"://[^/\s:@]+:[^/\s@$]+@", text), f"{path} has a URL with a password"
        for value in re.findall(r"(?i)password: (\S+)", text):
            assert value.startswith("$"), f"{path}: {value}"


def test_every_variable_of_ours_is_a_setting_or_composes_own() -> None:
    known = {f"VIGIL_{name.upper()}" for name in Settings.model_fields}
    given = {name for _, service in ours() for name in service.get("environment", {}) if name.startswith("VIGIL_")}
    assert given
    assert given <= known
    taken = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text("utf-8")))
    assert taken <= known | OF_COMPOSE
    assert not OF_COMPOSE & known


def test_composes_own_variables_in_an_env_file_are_no_misspelt_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}=1\n" for name in OF_COMPOSE))
    load_settings()


def test_workers_can_be_many_and_share_the_budget_of_their_one_address() -> None:
    worker = SERVICES["worker"]
    assert not {"container_name", "ports", "hostname"} & set(worker)
    assert worker["environment"]["VIGIL_LANE"] == "${VIGIL_LANE:-compose}"
    assert SERVICES["vigil"]["environment"]["VIGIL_LANE"] == worker["environment"]["VIGIL_LANE"]
    assert worker["restart"] == "on-failure"
    assert worker["entrypoint"] == ["worker.sh"]
    grace = int(str(worker["stop_grace_period"]).removesuffix("s"))
    assert grace > Settings.model_fields["drain_seconds"].default


def test_the_demo_never_meets_the_real_database_or_the_real_exchange() -> None:
    given = SERVICES["demo"]["environment"]
    assert given["VIGIL_DATABASE_URL"].endswith("/demo")
    assert given["VIGIL_API_URL"] == "http://simulator:8787/info"
    assert given["VIGIL_LANE"] != SERVICES["worker"]["environment"]["VIGIL_LANE"]
    command = SERVICES["simulator"]["command"]
    assert f"--period-seconds={given['VIGIL_WEIGHT_PERIOD_SECONDS']}" in command
    assert {name for name, service in SERVICES.items() if "demo" in service.get("profiles", [])} == {
        "simulator",
        "demo",
    }
    needed = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert all("demo" not in SERVICES[one].get("profiles", []) for one in needed["worker"] | needed["grafana"])


@pytest.mark.parametrize("name", [name for name, service in ours() if "command" in service])
def test_every_command_of_a_service_is_one_that_there_is(name: str) -> None:
    shown = CliRunner().invoke(with_commands(), [*SERVICES[name]["command"], "--help"])
    assert shown.exit_code == 0, shown.output


def test_what_is_mounted_and_copied_is_there_and_reaches_the_build() -> None:
    mounted = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if volume[0] == "."
    }
    assert mounted
    assert all((REPOSITORY / path).exists() for path in mounted)
    copied = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
        if not source.startswith("--")
    }
    rules = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert any(fnmatch.fnmatch(source.split("/")[0], rule) for rule in kept), source
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) <= copied
    scripts = {service["entrypoint"][0] for _, service in ours() if "entrypoint" in service}
    assert {f"docker/{name}" for name in scripts} <= copied


def test_the_image_runs_as_an_ordinary_user_and_is_the_command() -> None:
    last = DOCKERFILE.read_text("utf-8").rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+)$", last, re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert instructions("ENTRYPOINT") == ['["vigil-backfill"]']
    for name, service in ours():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "user" not in service, name


def test_nothing_is_reachable_from_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_grafana_finds_its_databases_and_its_dashboard() -> None:
    provisioning = REPOSITORY / "grafana" / "provisioning"
    found = yaml.safe_load((provisioning / "datasources" / "vigil.yml").read_text("utf-8"))["datasources"]
    sources = [one for one in found if one["type"] != "prometheus"]
    assert [(one["jsonData"]["database"], one["user"]) for one in sources] == [
        ("vigil", "grafana"),
        ("demo", "grafana"),
    ]
    dashboard = json.loads((REPOSITORY / "grafana" / "dashboards" / "vigil.json").read_text("utf-8"))
    (variable,) = dashboard["templating"]["list"]
    assert {one["type"] for one in sources} == {variable["query"]}
    assert variable["current"]["value"] == sources[0]["uid"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vigil.yml").read_text("utf-8"))["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/vigil.json"
