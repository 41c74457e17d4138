"""What Prometheus is told of the gate's decisions, and that it can still be read when `vamba promote` has ended."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from pipelines.registry import history
from pipelines.registry.audit import Entry
from pipelines.registry.ray_metrics import METRICS, decision_counts, export_decisions


def entry(number: int, action: str, decision: str = "", model: str = "film") -> Entry:
    body = {"action": action, "model": model, "decision": decision, "created_at": f"2026-01-01T00:00:{number:02}+00:00"}
    return Entry(number=number, digest=str(number), body=body)


ENTRIES = [
    entry(1, history.REGISTER),
    entry(2, history.REFUSE, history.REFUSED),
    entry(3, history.BEGIN, history.PROMOTED),
    entry(4, history.MOVE, history.PROMOTED),
    entry(5, history.MOVE, history.FORCED),
    entry(6, history.MOVE, history.ROLLED_BACK),
    entry(7, history.MOVE, history.PROMOTED, model="another"),
    entry(8, history.REFUSE, history.REFUSED),
]


def test_each_decision_of_a_model_counts_once() -> None:
    counts = decision_counts(ENTRIES, "film")
    assert set(counts) == {metric.name for metric in METRICS}
    assert counts == {
        "vamba_registry_promotions": 1,
        "vamba_registry_refusals": 2,
        "vamba_registry_forced": 1,
        "vamba_registry_rollbacks": 1,
        "vamba_registry_last_decision_timestamp_seconds": 1767225608,
    }


def test_a_model_without_a_decision_has_no_time_of_one() -> None:
    counts = decision_counts(ENTRIES[:1], "film")
    assert len(counts) == len(METRICS) - 1 and not any(counts.values())


def test_without_a_cluster_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not export_decisions(ENTRIES, "film", None)


@pytest.mark.ray
def test_a_cluster_shows_them_after_the_command_has_ended() -> None:
    import ray

    from tests.faults.clusters import ray_cluster

    with ray_cluster() as cluster:
        assert export_decisions(ENTRIES[:4], "film", cluster.address)
        assert export_decisions(ENTRIES, "film", cluster.address)
        assert not ray.is_initialized()
        port = cluster.head_node.metrics_export_port
        wanted = re.compile(r'^ray_vamba_registry_refusals\{.*model="film".*\} 2\.0$', re.MULTILINE)
        deadline = time.monotonic() + 60
        text = ""
        while not wanted.search(text):
            assert time.monotonic() < deadline, [line for line in text.splitlines() if "registry" in line]
            time.sleep(0.5)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
