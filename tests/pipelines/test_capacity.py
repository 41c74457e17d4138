"""What a job needs against what a cluster has: one by one node, with both numbers in the refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipelines.capacity import Needs, Node, evaluation_needs, grows, ingest_needs, require_room, require_room_here
from pipelines.evaluation.config import EvaluationConfig

GPUS = Needs(job="train", workers=8, fewest=8, cpus=8, gpus=1, remedy="lower workers.num_workers")
LARGE, SMALL = Node(cpus=64, gpus=8), Node(cpus=32, gpus=4)


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ([LARGE], True),
        ([SMALL, SMALL], True),
        ([SMALL], False),
        ([Node(cpus=63, gpus=8)], False),
        ([Node(cpus=4, gpus=1)] * 32, False),
        ([Node(cpus=64)] + [Node(cpus=0, gpus=8)], False),
        ([], False),
    ],
)
def test_workers_must_fit_on_single_nodes(nodes: list[Node], fits: bool) -> None:
    if fits:
        require_room(GPUS, nodes, where="the cluster")
    else:
        with pytest.raises(ValueError, match="train needs 8 GPUs"):
            require_room(GPUS, nodes, where="the cluster")


def test_the_refusal_names_both_numbers_and_the_remedy() -> None:
    with pytest.raises(ValueError) as refused:
        require_room(GPUS, [SMALL], where="the cluster")
    assert str(refused.value) == (
        "train needs 8 GPUs (8 workers of 8 CPUs and 1 GPU each), and the cluster has 4 GPUs and 32 CPUs on 1 node, "
        "room for 4: add nodes, or lower workers.num_workers."
    )
    require_room(replace(GPUS, fewest=4), [SMALL], where="the cluster")


def test_fractions_of_cpus_add_up() -> None:
    require_room(replace(GPUS, cpus=0.1, gpus=0, fewest=10), [Node(cpus=1)], where="the cluster")


def test_the_device_auto_follows_the_cluster() -> None:
    config = EvaluationConfig(model="m", data="d", num_replicas=2)
    assert [evaluation_needs(config, has_gpus=has).gpus for has in (True, False)] == [1, 0]
    assert evaluation_needs(replace(config, device="cuda"), has_gpus=False).gpus == 1


NODE = "ab12" * 14


@pytest.mark.parametrize(
    ("status", "labels", "expected"),
    [
        (None, [{}, {}], False),
        ({"autoscaler_report": {"active_nodes": {f"node_{NODE}": 1}, "idle_nodes": None}}, [{}], False),
        ({"autoscalerReport": {"activeNodes": {f"node{NODE.title()}": 1}}}, [{}], False),
        ({"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}, [{}], True),
        ({"autoscalerReport": {"activeNodes": {}, "idleNodes": {"gpu": 2}}}, [{}], True),
        (None, [{}, {"ray.io/node-group": "train"}], True),
    ],
)
def test_an_autoscaler_is_told_from_none(status: Any, labels: list[dict[str, str]], expected: bool) -> None:
    assert grows(status, labels) == expected


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what Ray tells of its nodes, one list of resources after the other, and of an autoscaler."""
    import ray
    from ray.experimental import internal_kv

    def of(*lists: list[dict[str, float]], status: bytes | None = None) -> None:
        answers = [[{"Alive": True, "Resources": entry, "Labels": {}} for entry in entries] for entries in lists]
        monkeypatch.setattr(ray, "nodes", lambda: answers.pop(0) if len(answers) > 1 else answers[0])
        monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key: status)

    return of


def test_a_node_that_comes_back_is_waited_for(cluster: Callable[..., None]) -> None:
    cluster([{}], [{"CPU": 4}])
    told: list[str] = []
    require_room_here(ingest_needs(), told.append, patience_s=60)
    assert len(told) == 1 and "Looking for more nodes" in told[0]


def test_one_that_does_not_is_refused(cluster: Callable[..., None]) -> None:
    cluster([{"object_store_memory": 1.0}])
    with pytest.raises(ValueError, match="ingest needs 1 CPU"):
        require_room_here(ingest_needs(), lambda text: None, patience_s=0)


def test_an_autoscaler_is_waited_for(cluster: Callable[..., None]) -> None:
    cluster([{"CPU": 1}], status=b'{"autoscaler_report": {"active_nodes": {"head": 1}}}')
    told: list[str] = []
    require_room_here(GPUS, told.append, patience_s=0)
    assert "It has an autoscaler" in told[0]
