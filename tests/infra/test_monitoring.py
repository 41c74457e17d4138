"""Alert rules, dashboard and metrics belong together, and the rules fire when they should (promtool's unit tests)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.ingest.ray_metrics import METRICS as INGEST_METRICS
from pipelines.registry.ray_metrics import METRICS as REGISTRY_METRICS
from pipelines.training.ray_metrics import METRICS as TRAINING_METRICS
from tests.architecture.sources import ROOT

MONITORING = ROOT / "infra" / "monitoring"
RULES = MONITORING / "rules.yaml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "vamba.json"
EXPORTED = {f"ray_{metric.name}" for metric in (*TRAINING_METRICS, *INGEST_METRICS, *REGISTRY_METRICS)}
NAME = re.compile(r"\b(?:ray_\w+|up)\b")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _queries() -> list[str]:
    """Every expression of the dashboard, those of its variables and annotations included."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    return found + [variable["query"]["query"] for variable in dashboard["templating"]["list"]]


@pytest.fixture(scope="module")
def promtool() -> str:
    beside = Path(sys.executable).parent / "promtool"
    found = str(beside) if beside.is_file() else shutil.which("promtool")
    if found is None:
        pytest.skip("the rules are tested by Prometheus' own promtool, which scripts/promtool.sh fetches with apt")
    return found


def _run(promtool: str, *arguments: str) -> None:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fire_when_they_should(promtool: str) -> None:
    _run(promtool, "check", "rules", str(RULES))
    _run(promtool, "test", "rules", str(MONITORING / "rules.test.yaml"))


def test_prometheus_takes_its_configuration(promtool: str, tmp_path: Path) -> None:
    for name in ("prometheus.yaml", "rules.yaml"):
        shutil.copy(MONITORING / name, tmp_path / name)
    _run(promtool, "check", "config", str(tmp_path / "prometheus.yaml"))


def test_every_query_of_the_dashboard_parses(promtool: str, tmp_path: Path) -> None:
    queries = [query for query in _queries() if not query.startswith("label_values(")]
    rules = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    _run(promtool, "check", "rules", str(file))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]:
        others = len({re.search(r'(?:run|dataset|instance)="[^"]*"', s["series"])[0] for s in case["input_series"]})  # type: ignore[index]
        for expected in case["alert_rule_test"]:
            if expected["exp_alerts"]:
                fires.add(expected["alertname"])
            if len(expected["exp_alerts"]) < others:
                silent.add(expected["alertname"])
    assert fires == silent == {rule["alert"] for rule in _rules()}


def test_rules_and_dashboard_name_metrics_that_are_exported() -> None:
    for text in (*(rule["expr"] for rule in _rules()), *_queries()):
        named = set(NAME.findall(text))
        assert named and named <= EXPORTED | {"up"}, f"{sorted(named - EXPORTED)} in {text}"


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set(NAME.findall(" ".join(_queries())))
    assert shown == EXPORTED


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_every_alert_leads_to_a_page_that_says_what_to_do() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    pages = {page.split("\n", 1)[0]: page for page in text.split("\n## ")[1:]}
    alerts = {rule["alert"]: rule for rule in _rules()}
    assert {name for name in pages if name.startswith("Vamba")} == set(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in pages[name], f"{name} lacks {part}"


def test_the_operator_reads_every_pod_under_the_name_that_the_rules_expect() -> None:
    monitor = yaml.safe_load((MONITORING / "kubernetes.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "vamba"}]
    (scrape,) = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    assert scrape["job_name"] == "vamba"


def test_the_rules_become_an_object_of_the_prometheus_operator() -> None:
    (line,) = re.findall(
        r"^#   (\{ printf .*\}) \| kubectl", (MONITORING / "kubernetes.yaml").read_text(), re.MULTILINE
    )
    made = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = yaml.safe_load(made)
    assert loaded["kind"] == "PrometheusRule" and loaded["spec"] == yaml.safe_load(RULES.read_text())


def test_commands_of_the_runbooks_exist() -> None:
    import typer

    from jobs.cli.main import app

    group: Any = typer.main.get_command(app)
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    named = re.findall(r"`vamba ([^`]+)`|^    vamba ([^#\n]+)", text, flags=re.MULTILINE)
    assert len(named) > 10
    for words in ((inline or block).split() for inline, block in named):
        command = group.commands[words.pop(0)]
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words
