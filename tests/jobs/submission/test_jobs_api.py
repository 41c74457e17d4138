"""What is sent to a running cluster, what it is checked against first, and a real submission to a real Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.submission.jobs_api import dashboard_of
from jobs.submission.ray_cluster import RayCluster
from jobs.submission.sent_files import EXCLUDES, sent_files
from pipelines.storage import vamba_home
from tests.architecture.sources import ROOT
from tests.jobs.submission.cases import GPUS, WORDS, plan
from tests.jobs.submission.dashboard import Dashboard, serving

URL = "http://127.0.0.1:8265"
LARGE = {"CPU": 64.0, "GPU": 8.0}


class _LostError(Exception):
    """As aiohttp has some of its own."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Dashboard]]:
    open_ones: list[Any] = []

    def start(*nodes: dict[str, float], **settings: Any) -> Dashboard:
        open_ones.append(serving(Dashboard(nodes=list(nodes), **settings)))
        return open_ones[-1].__enter__()

    yield start
    for server in open_ones:
        server.__exit__(None, None, None)


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    return root


def test_the_whole_source_is_sent_and_what_lies_beside_it_is_not(tmp_path: Path) -> None:
    files = ("jobs/__main__.py", "mine.yaml", "pipelines/storage.py", "vamba/data/sample.py")
    _tree(tmp_path, *files, "data/video.mp4", "tests/t.py", ".git/HEAD", ".venv/big", "jobs/__pycache__/x.pyc")
    sent = sent_files(tmp_path)
    assert tuple(sent.sizes) == files and sent.size_bytes == 5 * len(files)
    assert sent.by_top() == {"jobs/": (1, 5), "mine.yaml": (1, 5), "pipelines/": (1, 5), "vamba/": (1, 5)}
    assert "/data" in EXCLUDES and "data" not in EXCLUDES


def test_secrets_that_lie_beside_the_source_stay_there(tmp_path: Path) -> None:
    """What is listed is what Ray packs: links to folders, and none of the files that hold secrets."""
    from ray._private.runtime_env.packaging import create_package

    secret = (".env", ".env.local", "infra/docker/compose.env", "infra/mlflow/auth.ini", "jobs/id.pem", "tls.key")
    secret += ("id_rsa", "my/.netrc", ".ssh/config", ".aws/credentials", "infra/auth_token")
    files = ("jobs/__main__.py", "my/own.yaml", "infra/docker/compose.env.example", "jobs/environment.py")
    tree = _tree(tmp_path / "tree", *files, *secret)
    (tree / ".gitignore").write_text("my/\n")
    _tree(tmp_path / "elsewhere", "a.yaml")
    (tree / "linked").symlink_to(tmp_path / "elsewhere")
    sent = sent_files(tree)
    assert set(sent.sizes) == {*files, "linked/a.yaml", ".gitignore"}
    package = tmp_path / "package.zip"
    create_package(str(tree), package, include_gitignore=False, excludes=list(EXCLUDES))
    with zipfile.ZipFile(package) as packed:
        assert {name for name in packed.namelist() if not name.endswith("/")} == set(sent.sizes)


@pytest.mark.parametrize("verb", WORDS)
def test_every_job_is_the_local_command_in_a_copy_of_the_source(verb: str) -> None:
    submission = plan(URL, verb)
    assert submission.entrypoint.startswith(f"python -m jobs {verb} {' '.join(WORDS[verb])}")
    assert submission.environment["RAY_AUTH_MODE"] == "token", "as this process has it"
    assert submission.environment["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    assert submission.sent is not None and "jobs/__main__.py" in submission.sent.sizes


def test_files_of_the_users_own_must_be_among_those_that_are_sent(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", "jobs/__main__.py", "my/own.yaml", "docs/not.yaml")
    for name in ("my/own.yaml", "docs/not.yaml"):
        (tree / name).write_text("workers: {num_workers: 1}")
    words = (*WORDS["train"], "--config", str(tree / "my" / "own.yaml"))
    assert "--config my/own.yaml" in plan(URL, words=words, working_dir=tree).entrypoint
    with pytest.raises(ValueError, match="does not lie among the files that are sent"):
        plan(URL, words=(*WORDS["train"], "--config", str(tree / "docs" / "not.yaml")), working_dir=tree)


@pytest.mark.parametrize(
    ("to", "dashboard"),
    [
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.com", "https://ray.example.com"),
        ("ray://head:10001", "http://head:8265"),
        ("ray://[fd00::1]:10001", "http://[fd00::1]:8265"),
        (" http://head:8265/#/jobs?tab=1", "http://head:8265"),
        ("https://ray.example.com/team/", "https://ray.example.com/team"),
    ],
)
def test_the_dashboard_takes_jobs(to: str, dashboard: str) -> None:
    assert dashboard_of(to) == dashboard


@pytest.mark.parametrize("to", ["127.0.0.1", "champion", "s3://b", "http://", "kubray"])
def test_what_is_no_place_is_refused(to: str) -> None:
    with pytest.raises(ValueError, match=r"http://HOST:8265.*ray://HOST:10001, kuberay or sky"):
        plan(to)


@pytest.mark.parametrize("to", ["http://[::1", "http://head:99999", "ray://head:abc", "http://u:pw123456@[::1:8265"])
def test_an_address_with_a_slip_is_refused_before_anything_is_sent(to: str) -> None:
    with pytest.raises(ValueError, match=r"is no address: .*port from 1 to 65535") as error:
        plan(to)
    assert "pw123456" not in str(error.value)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submission.ray_cluster._ANSWER_PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="timed out.*Check the address"):
            RayCluster(url).status("job_1")


def test_a_tree_that_leads_back_into_itself_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", "jobs/__main__.py", "my/a.yaml", "my/b.yaml")
    (tree / "my" / "back").symlink_to(tree)
    (tree / "my" / "self").symlink_to(tree / "my")
    with pytest.raises(ValueError, match="link to a folder that it lies in"):
        sent_files(tree)


def test_a_tree_that_ray_would_pack_otherwise_or_not_take_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", "jobs/__main__.py", "videos/.rayignore")
    with pytest.raises(ValueError, match=r"videos/.rayignore would keep files back"):
        plan(URL, working_dir=tree)
    (tree / "videos" / ".rayignore").unlink()
    with (tree / "videos" / "long.mp4").open("wb") as file:
        file.truncate(600 * 2**20)
    with pytest.raises(ValueError, match=r"600 MiB to send, and Ray takes 512 MiB.*videos/ 600 MiB"):
        plan(URL, working_dir=tree)


def test_options_of_other_places_are_refused() -> None:
    for option in ({"image": "x"}, {"nodes": 2}, {"secrets": ("a",)}, {"queue": "q"}):
        with pytest.raises(ValueError, match="is for kuberay or sky"):
            plan(URL, **option)


def test_a_job_is_sent_where_there_is_room(serve: Callable[..., Dashboard]) -> None:
    dashboard = serve(*[LARGE] * 4)
    submission, told = plan(dashboard.url, words=GPUS), list[str]()
    assert RayCluster(dashboard.url).send(submission, check=True, note=told.append) == "job_1"
    (body,) = dashboard.submitted
    assert body["entrypoint"] == submission.entrypoint and not told
    assert body["runtime_env"]["env_vars"] == dict(submission.environment)


def test_what_the_cluster_can_not_hold_is_refused_and_nothing_sent(serve: Callable[..., Dashboard]) -> None:
    dashboard = serve(LARGE)
    cluster, submission = RayCluster(dashboard.url), plan(dashboard.url, words=GPUS)
    with pytest.raises(ValueError, match=r"needs 32 GPUs .* has 8 GPUs and 64 CPUs on 1 node.*--no-capacity-check"):
        cluster.send(submission, check=True, note=print)
    assert not dashboard.submitted
    assert cluster.send(submission, check=False, note=print) == "job_1"


def test_a_cluster_that_can_grow_is_not_refused(serve: Callable[..., Dashboard]) -> None:
    dashboard, told = serve({"CPU": 4.0}, kinds=("ray.head.default",)), list[str]()
    assert RayCluster(dashboard.url).send(plan(dashboard.url, words=GPUS), check=True, note=told.append) == "job_1"
    assert "It has an autoscaler" in told[0]
    fixed = serve({"CPU": 4.0}, kinds=(f"node{'Ab12' * 14}",))
    with pytest.raises(ValueError, match="needs 32 GPUs"):
        RayCluster(fixed.url).send(plan(fixed.url, words=GPUS), check=True, note=print)


def test_an_elastic_run_needs_room_for_its_fewest(serve: Callable[..., Dashboard]) -> None:
    dashboard = serve(LARGE)
    submission = plan(dashboard.url, words=(*GPUS, "--set", "workers.min_workers=8"))
    assert RayCluster(dashboard.url).send(submission, check=True, note=print) == "job_1"


def test_a_promotion_asks_for_no_room(serve: Callable[..., Dashboard]) -> None:
    dashboard = serve({})
    assert RayCluster(dashboard.url).send(plan(dashboard.url, "promote"), check=True, note=print) == "job_1"


def test_a_cluster_with_another_token_refuses(serve: Callable[..., Dashboard], monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = serve(LARGE, token="right" * 8)
    with pytest.raises(ConnectionError, match="RAY_AUTH_MODE, which is token here"):
        RayCluster(dashboard.url).status("job_1")
    monkeypatch.setenv("RAY_AUTH_MODE", "maybe")
    with pytest.raises(ValueError, match="set it to token or disabled"):
        RayCluster(dashboard.url).status("job_1")


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="Check the address"):
        RayCluster(f"http://127.0.0.1:{port}").status("job_1")


def test_state_and_end_of_a_job(serve: Callable[..., Dashboard]) -> None:
    dashboard = serve(LARGE)
    cluster = RayCluster(dashboard.url)
    assert cluster.status("job_1")["state"] == "RUNNING" and "exit code" not in cluster.status("job_1")
    assert "save and end" in cluster.stop("job_1") and dashboard.stopped == ["/api/jobs/job_1/stop"]
    dashboard.job = {"status": "FAILED", "driver_exit_code": 75, "end_time": 2000, "message": "exit code 75"}
    assert cluster.status("job_1")["exit code"] == "75"
    assert "ended already" in cluster.stop("job_1")
    dashboard.job = {"status": "STOPPED", "end_time": 2000, "message": "Job was intentionally stopped."}
    assert cluster.status("job_1")["exit code"] == "75"
    with pytest.raises(ValueError, match="knows no job of that name"):
        cluster.status("job_2")


class _Log:
    """A client whose log ends, with the states that the cluster then tells."""

    def __init__(self, *states: str, error: Exception | None = None) -> None:
        self._states, self._error = list(states), error

    async def tail_job_logs(self, identity: str) -> AsyncIterator[str]:
        yield "step 1\n"
        if self._error is not None:
            raise self._error

    def get_job_info(self, identity: str) -> Any:
        from ray.job_submission import JobStatus

        status = JobStatus(self._states.pop(0) if len(self._states) > 1 else self._states[0])
        return SimpleNamespace(status=status, driver_exit_code=3 if status is JobStatus.FAILED else None, message="")


@pytest.mark.parametrize("error", [None, RuntimeError("closed with 1006"), _LostError("no handshake")])
def test_a_log_that_breaks_off_is_no_end_of_the_job(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    monkeypatch.setattr("jobs.submission.ray_cluster._STATE_PATIENCE_S", 0.2)
    monkeypatch.setattr("jobs.submission.ray_cluster._STATE_POLL_S", 0.01)
    cluster = RayCluster(URL)
    shown: list[str] = []

    def follow(*states: str) -> int:
        monkeypatch.setattr(cluster, "_client", lambda: nullcontext(_Log(*states, error=error)))
        return cluster.follow("job_1", lambda text, **_: shown.append(text))

    with pytest.raises(ConnectionError, match=r"goes on \(RUNNING\).*vamba jobs logs job_1 --to http://127.0.0.1:8265"):
        follow("RUNNING")
    assert follow("RUNNING", "RUNNING", "FAILED") == 3, "the machine took the log along; its loss was seen later"
    assert follow("SUCCEEDED") == 0 and shown == ["step 1\n"] * 3


def test_a_job_that_nobody_knows_has_no_log(serve: Callable[..., Dashboard]) -> None:
    with pytest.raises(ValueError, match="knows no job of that name"):
        RayCluster(serve(LARGE).url).follow("job_2", print)


def test_a_run_is_not_kept_in_a_folder_that_ray_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_c7606777ff8655fb"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("VAMBA_HOME", "/mnt/vamba")
    assert vamba_home() == Path("/mnt/vamba")
    monkeypatch.setenv("VAMBA_HOME", "home")
    with pytest.raises(ValueError, match="below the job's working directory"):
        vamba_home()
    monkeypatch.delenv("VAMBA_HOME")
    with pytest.raises(ValueError, match="storage that every node mounts by --env VAMBA_HOME"):
        vamba_home()
    monkeypatch.chdir(tmp_path)
    assert vamba_home() == tmp_path / ".vamba"


@pytest.mark.parametrize("home", ["s3://bucket/home", "file:///mnt/vamba"])
def test_an_address_as_home_does_not_become_a_folder_of_that_name(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAMBA_HOME", home)
    with pytest.raises(ValueError, match="VAMBA_HOME is .*name a folder"):
        vamba_home()
    for to in (URL, "kuberay", "sky"):
        with pytest.raises(ValueError, match="VAMBA_HOME is .*name a folder"):
            plan(to, environment={"VAMBA_HOME": home})
    with pytest.raises(ValueError, match="VAMBA_HOME is .*name a folder"):
        plan(URL)
    monkeypatch.setenv("VAMBA_HOME", ".vamba")
    with pytest.raises(ValueError, match=r"VAMBA_HOME is '.vamba', which lies elsewhere where the job runs"):
        plan(URL)


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray on this machine whose `python` is this one."""
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ray.init(
        address="local", num_cpus=1, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port,
        log_to_driver=False, object_store_memory=100 * 1024**2,
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    ray.shutdown()


def _vamba(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs", *words], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_shows_its_log_and_passes_its_exit_code_on(dashboard: str) -> None:
    done = _vamba("submit", "evaluate", "--model", "nobody", "--data", "/nowhere", "--to", dashboard)
    assert "There is no model 'nobody'" in done.stdout, done.stderr
    assert done.returncode == 2
    refused = _vamba("submit", "train", *GPUS, "--to", dashboard)
    assert refused.returncode == 2
    assert "needs 32 GPUs" in refused.stderr and "has 0 GPUs and 1 CPU on 1 node" in refused.stderr, refused.stderr
