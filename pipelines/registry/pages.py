"""Everything that the registry holds, however much: MLflow answers in pages, of a hundred models by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000


def all_models(client: MlflowClient) -> Iterator[Any]:
    """Every registered model."""
    return _paged(lambda token: client.search_registered_models(max_results=PAGE, page_token=token))


def all_versions(client: MlflowClient, name: str) -> Iterator[Any]:
    """Every version of a model that was not deleted."""
    return _paged(lambda token: client.search_model_versions(f"name = '{name}'", max_results=PAGE, page_token=token))


def _paged(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
