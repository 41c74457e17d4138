"""What the registry holds, for reading: one row per version, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.registry.pages import all_models, all_versions
from pipelines.registry.tracking import open_client


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """A version. decision: the last promotion decision about it, with its alias. created_at: UTC, ISO 8601."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run: str
    decision: str
    source: str
    created_at: str


def list_versions() -> list[VersionRow]:
    """All versions of all registered models."""
    client = open_client()
    rows = []
    for model in all_models(client):
        for version in all_versions(client, model.name):
            decisions = [
                (version.tags.get(key.replace(".decision", ".decided_at"), ""), f"{value} ({key.split('.')[1]})")
                for key, value in version.tags.items()
                if key.startswith("promotion.") and key.endswith(".decision")
            ]
            created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
            rows.append(
                VersionRow(
                    name=model.name,
                    version=str(version.version),
                    aliases=tuple(
                        sorted(alias for alias, number in model.aliases.items() if str(number) == str(version.version))
                    ),
                    run=version.tags.get("run", ""),
                    decision=max(decisions)[1] if decisions else "",
                    source=str(version.source),
                    created_at=created.isoformat(timespec="seconds"),
                )
            )
    return sorted(rows, key=lambda row: row.created_at, reverse=True)
