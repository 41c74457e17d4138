"""How the work of an ingest is cut into tasks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.tasks import group_by_cost


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 64))
def test_groups_cover_everything_once_and_are_large_enough(costs: list[float], num_cores: int) -> None:
    groups = group_by_cost(costs, 0.5, num_cores)
    assert [index for group in groups for index in group] == list(range(len(costs)))
    assert all(sum(costs[index] for index in group) >= 0.5 for group in groups[:-1])


def test_every_core_gets_its_share_of_what_is_left_and_the_end_is_cut_small() -> None:
    sizes = [len(group) for group in group_by_cost([0.5] * 40, 0.75, 2)]
    assert sizes == [14, 9, 6, 4, 3, 2, 2]


def test_no_task_is_longer_than_a_lost_worker_may_cost() -> None:
    groups = group_by_cost([1.0] * 1000, 0.75, 2)
    assert max(len(group) for group in groups) == 15
    assert len(groups[-1]) == 1
