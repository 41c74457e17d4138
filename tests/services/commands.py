"""`vamba` in this process, and a look at what it left in the registry's database."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from jobs.cli.main import app
from tests.services.bed import Bed


def vamba(*words: object, code: int = 0) -> Result:
    """Runs a command, which must end with that exit code."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"vamba {words} ended with {result.exit_code}:\n{result.output}"
    return result


def vamba_json(*words: object, code: int = 0) -> Any:
    """What a command prints as JSON."""
    return json.loads(vamba(*words, "--json", code=code).stdout)


def aliases(bed: Bed, model: str) -> dict[str, int]:
    """{alias: version}, as PostgreSQL has it."""
    return dict(bed.database.rows("SELECT alias, version FROM registered_model_aliases WHERE name = %s", model))


def tags(bed: Bed, model: str, version: int) -> dict[str, str]:
    """Of a version, as PostgreSQL has them."""
    query = "SELECT key, value FROM model_version_tags WHERE name = %s AND version = %s"
    return dict(bed.database.rows(query, model, version))


def versions(bed: Bed, model: str) -> dict[int, str]:
    """{version: source} of those that were not deleted, as PostgreSQL has them."""
    query = "SELECT version, source FROM model_versions WHERE name = %s AND current_stage <> 'Deleted_Internal'"
    return dict(bed.database.rows(query, model))
