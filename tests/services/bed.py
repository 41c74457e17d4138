"""All servers together: S3, PostgreSQL, and MLflow on top of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.s3_server import S3Server
from tests.services.mlflow_server import mlflow_server
from tests.services.postgresql import PostgreSQL, postgresql
from tests.services.processes import Server
from tests.services.seaweedfs import SeaweedFS, seaweedfs

ARTIFACTS, AUDIT = "mlflow-artifacts", "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """store: the S3 server; s3: its contents. database: MLflow's. mlflow: its server, at `address`.

    environment: what a client needs to find all of them.
    """

    store: SeaweedFS
    s3: S3Server
    database: PostgreSQL
    mlflow: Server
    address: str
    environment: Mapping[str, str]


@contextmanager
def open_bed(folder: Path) -> Iterator[Bed]:
    """The servers, started side by side; ended at the end of the block."""
    store = seaweedfs(folder / "s3")
    try:
        store.server.start()
        with postgresql() as database:
            mlflow, address = mlflow_server(
                folder / "mlflow", database=database.uri, artifacts=f"s3://{ARTIFACTS}", environment=store.environment
            )
            try:
                mlflow.start()
                store.server.wait_until_ready()
                s3 = store.open()
                for bucket in (ARTIFACTS, AUDIT):
                    s3.client.create_bucket(Bucket=bucket)
                mlflow.wait_until_ready()
                environment = {**store.environment, "MLFLOW_TRACKING_URI": address}
                yield Bed(
                    store=store, s3=s3, database=database, mlflow=mlflow, address=address, environment=environment
                )
            finally:
                mlflow.stop()
    finally:
        store.server.stop()
