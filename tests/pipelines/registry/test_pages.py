"""Registries with more models and versions than MLflow puts on a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.registry import pages
from pipelines.registry.deletion import VersionInUse, delete_version
from pipelines.registry.listing import list_versions
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client


def test_models_and_versions_beyond_the_first_page_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    register_model("stage2", "a")
    client = open_client()
    for number in range(3):
        client.create_registered_model(f"b{number}")
        for _ in range(3):
            client.create_model_version(f"b{number}", source="file:///m", await_creation_for=0)
    child = client.create_registered_model("z").name
    client.create_model_version(child, source="file:///z", tags={"parent": "models:/a/1"}, await_creation_for=0)
    assert len(list_versions()) == 11
    with pytest.raises(VersionInUse, match="z/1 started from"):
        delete_version("a/1", reason="tidy")


def test_a_name_that_ends_mlflows_filter_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="can't name a registered model"):
        register_model("stage2", "a' or name = 'b")
