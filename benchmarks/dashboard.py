"""Draws the dashboard of infra/monitoring with what a real job exports: docs/images/dashboard.png.

    ingest, train (its driver killed once), promote ── Ray's agent ── a Prometheus of its own ──┐
    infra/monitoring/grafana/dashboards/vamba.json ── panels, their PromQL and their places ────┴──> picture

Grafana itself is not needed, so the picture shows what its panels would hold, not how Grafana looks.

    python -m benchmarks.dashboard --prometheus PROGRAM     (Debian: apt-get install prometheus)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli.errors import REFUSED
from jobs.demo.processes import kill_job, start
from pipelines.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "infra" / "monitoring" / "grafana" / "dashboards" / "vamba.json"
NUM_STEPS, KILL_AT = 400, 150
_SUITE = """\
{seed: 0, width: 256, height: 144, fps: 5, num_shapes: 12, num_textures: 30, min_scene_s: 1, max_scene_s: 5, shuffle_options: false,
groups: [{name: clip, split: train, num_videos: 24, min_s: 24, max_s: 40, min_cards: 3, max_cards: 5, min_blanks: 0, max_blanks: 1}]}
"""  # noqa: E501
_PAGE, _PANEL, _LINES = "#111217", "#181b1f", ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830")
_TEXT, _GRID = "#ccccdc", "#2c3235"
_WIDTH, _CELL = 20.0, 0.36  # inches: of the picture, of a row of the grid


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server, and the time that is shown of it."""

    url: str
    began: float
    ended: float

    def lines(self, target: dict[str, Any]) -> Iterator[tuple[str, list[float], list[float]]]:
        """Legend, seconds and values of every series of a panel's query."""
        query = re.sub(r"\$(run|dataset|model)\b", ".*", target["expr"])
        words = {"query": query, "start": self.began, "end": self.ended, "step": 1}
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(words)}") as answer:
            found = json.load(answer)["data"]["result"]
        for series in found:
            points = [(float(at), float(value)) for at, value in series["values"]]
            legend = re.sub(
                r"\{\{(\w+)\}\}", lambda name, s=series: s["metric"].get(name[1], ""), target["legendFormat"]
            )
            yield legend, [at - self.began for at, _ in points], [value for _, value in points]


def draw(server: Prometheus, out: Path) -> None:
    """Every panel at its place in the grid."""
    from matplotlib.figure import Figure

    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(_WIDTH, rows * _CELL), facecolor=_PAGE)
    for panel in panels:
        place = panel["gridPos"]
        box = (place["x"] / 24, 1 - (place["y"] + place["h"]) / rows, place["w"] / 24, place["h"] / rows)
        if panel["type"] == "row":
            figure.text(box[0] + 0.004, box[1] + box[3] / 2, panel["title"], color=_TEXT, size=13, va="center")
        else:
            _draw_panel(figure, panel, box, server)
    figure.savefig(out, dpi=80, facecolor=_PAGE)


def _draw_panel(figure: Figure, panel: dict[str, Any], box: tuple[float, ...], server: Prometheus) -> None:
    left, bottom, width, height = box
    margin = 0.0015
    back = figure.add_axes((left + margin, bottom + margin, width - 2 * margin, height - 2 * margin), facecolor=_PANEL)
    back.set(xticks=(), yticks=())
    back.spines[:].set_color(_GRID)
    back.text(0.02, 0.97, panel["title"], color=_TEXT, size=10, va="top", transform=back.transAxes)
    found = [line for target in panel["targets"] for line in server.lines(target)]
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if panel["type"] == "stat":
        text = shown(found[-1][2][-1], unit) if found else "no data"
        back.text(0.5, 0.42, text, color=_LINES[0], size=24, ha="center", va="center", transform=back.transAxes)
        return
    axes = figure.add_axes((left + 0.032, bottom + 0.22 * height, width - 0.042, 0.60 * height), facecolor=_PANEL)
    for number, (legend, seconds, values) in enumerate(found):
        axes.plot(seconds, values, ".-", color=_LINES[number % 4], linewidth=1.3, markersize=2, label=legend)
    axes.set_xlim(0, server.ended - server.began)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.tick_params(colors=_TEXT, labelsize=8, length=0)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}")
    axes.spines[:].set_visible(False)
    corner = {"loc": "lower left", "bbox_to_anchor": (left + 0.004, bottom + 0.002), "borderaxespad": 0.2}
    lines, legends = axes.get_legend_handles_labels()
    figure.legend(lines, legends, ncols=4, frameon=False, labelcolor=_TEXT, fontsize=8, handlelength=1.2, **corner)


def shown(value: float, unit: str) -> str:
    """A value as the panel's unit has it."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "bytes":
        return f"{value / 1024**2:.0f} MiB"
    if unit == "s":
        return f"{value:.3g} s"
    size = max(0, int(math.log10(abs(value)) // 3)) if value else 0
    return f"{value / 1000 ** min(size, 2):.3g}{' KM'[min(size, 2)].strip()}"


@contextmanager
def prometheus(program: str, target: int, folder: Path) -> Iterator[str]:
    """A server that reads one exporter every second; its address."""
    port = free_port()
    rules = ROOT / "infra" / "monitoring" / "rules.yaml"
    scrape = {"job_name": "vamba", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    config = {"global": {"scrape_interval": "1s"}, "rule_files": [str(rules)], "scrape_configs": [scrape]}
    (folder / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML
    words = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen([program, *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def work(folder: Path, address: str) -> None:
    """An ingest with a damaged video, a run whose driver is killed, and a promotion that the gate refuses."""
    environment = {"VAMBA_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": "", "RAY_ADDRESS": address}
    Path("suite.yaml").write_text(_SUITE)
    run(("synthesize", "suite.yaml", "--out", "videos"), environment)
    first, *_ = sorted(Path("videos").rglob("*.mp4"))
    (first.parent / "cut.mp4").write_bytes(first.read_bytes()[:20_000])
    listing = ("--conversations", "videos/annotations.jsonl", "--set", "max_failure_fraction=0.1")
    run(("ingest", "videos", "--out", "data", *listing, "--address", address), environment)
    settings = (f"train.num_steps={NUM_STEPS}", "train.checkpoint_every_steps=40", "train.optimizer.learning_rate=2e-4")
    words = ("train", "tiny_instruct", "--data", "data", "--name", "run-1", "--address", address)
    words += tuple(word for setting in settings for word in ("--set", setting))
    job, directory = start(words, environment), RunDirectory(folder / "home" / "runs" / "run-1")
    while max((record["step"] for _, record in directory.read_metrics()), default=0) < KILL_AT:
        if job.poll() is not None:
            raise SystemExit("`vamba train` ended before it could be killed.")
        time.sleep(0.1)
    kill_job(job)
    run(words, environment)
    run(("promote", "run-1", "--as", "model", "--address", address), environment, code=REFUSED)
    time.sleep(5)  # the last values are exported and read


def run(words: Sequence[str], environment: Mapping[str, str], code: int = 0) -> None:
    """A command of ours, to its end."""
    ended = start(words, environment).wait()
    if ended != code:
        raise SystemExit(f"`vamba {words[0]}` ended with exit code {ended}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", type=Path, default="/usr/bin/prometheus", help="the server's program")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "dashboard.png")
    options = parser.parse_args()
    program, out = options.prometheus.absolute(), options.out.absolute()
    if not program.is_file():
        raise SystemExit(f"There is no {program}: apt-get install prometheus, or name it by --prometheus.")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000", "PYTHONPATH": str(ROOT)}
    import ray

    with tempfile.TemporaryDirectory(prefix="vamba-") as name, contextlib.chdir(name):  # names on the picture are short
        exporter = free_port()
        context = ray.init(address="local", num_cpus=3, include_dashboard=False, _metrics_export_port=exporter)
        try:
            with prometheus(str(program), exporter, Path(name)) as url:
                began = time.time()
                work(Path(name), context.address_info["gcs_address"])
                draw(Prometheus(url, began, time.time()), out)
        finally:
            ray.shutdown()
    print(f"Drawn: {out}")


if __name__ == "__main__":
    main()
