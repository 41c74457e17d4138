"""`python -m jobs …` is the `vamba` command: what a cluster's entrypoint runs."""

from __future__ import annotations

from jobs.cli.main import main

if __name__ == "__main__":
    main()
