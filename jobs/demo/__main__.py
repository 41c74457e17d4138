"""Runs the demo: `python -m jobs.demo [--out DIR] [VIDEO…]`. Videos given here are ingested beside the others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.demo.run import DemoFailedError, run_demo


def main() -> int:
    """Exit code 0, or 1 with one paragraph about the command that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.demo", description="The main job, end to end, on this machine."
    )
    parser.add_argument("videos", nargs="*", type=Path, help="videos of your own to ingest beside the generated ones")
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="where everything goes (default: build/demo)"
    )
    arguments = parser.parse_args()
    try:
        run_demo(arguments.out, arguments.videos)
    except DemoFailedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
