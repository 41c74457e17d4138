# The commands of this project. `make` lists them; each one that needs the environment makes it first (scripts/setup.sh).
#
# Variables: PYTHON=python3.12     the interpreter for .venv (default: the first 3.11 or 3.12 found)
#            TORCH_INDEX=URL       a package index with the CPU build of torch, where the network needs one
#            DEVICE=cpu|cuda       overrides the search for an NVIDIA driver
#            VIDEOS="a.mp4 b.mkv"  videos of your own that `make demo` ingests beside its own
#            T="tests/vamba -k x"  what `make test-fast` runs
#            WORKERS=2             how many pytest processes run at once
#            STEPS=480             how long the runs of `make cluster-test` are; a faster machine wants more
#            KILLS=24              how many runs `make faults` kills at moments drawn from a seed

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
WORKERS ?= 2
KILLS ?= 24
T ?= tests
export PYTHON TORCH_INDEX DEVICE VENV STEPS

# One thread per process and no telemetry; tests/conftest.py sets the same for the test processes themselves.
QUIET := RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
PYTEST := $(QUIET) OMP_NUM_THREADS=1 $(PY) -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast services-test cluster-test faults test-transformers check audit format lock clean distclean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make or update .venv from requirements/*.lock (the other commands do it themselves)
	@scripts/setup.sh

demo: setup ## the whole job on this machine: generate, ingest, train, kill, resume, evaluate, promote, ask
	@$(QUIET) $(PY) -m jobs.demo $(VIDEOS)

# Tests that start Ray or several gloo processes want the machine for themselves, so they run after the others, one by one.
# Both parts run, also when the first one fails.
test: setup ## every test that needs no GPU
	@scripts/promtool.sh
	@status=0; set -x; \
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "not ray and not distributed and not gpu and not faults and not services" tests || status=$$?; \
	$(PYTEST) -m "(ray or distributed) and not gpu and not faults and not services" tests || status=$$?; \
	{ set +x; } 2>/dev/null; exit $$status

test-fast: setup ## the tests without Ray, gloo processes and long runs
	@scripts/promtool.sh
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "not ray and not distributed and not gpu and not slow and not faults and not services" $(T)

services-test: setup ## the registry on real servers, started on loopback: PostgreSQL, S3 (SeaweedFS), MLflow
	$(PYTEST) -m services tests/services

cluster-test: setup ## the platform on a cluster of several nodes on this machine, under faults; writes docs/reliability.md (15 min)
	$(QUIET) OMP_NUM_THREADS=1 $(PY) -m tests.cluster

faults: setup ## kill, stop, hang and fill up training in every way we know; ends with a table (KILLS=24)
	VAMBA_TEST_KILLS=$(KILLS) $(PYTEST) tests/faults

test-transformers: setup ## the tests of the transformers class on the oldest and the newest release we allow
	scripts/transformers_versions.sh

check: setup ## format, lint and types, then the fast tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory test-fast

audit: setup ## known vulnerabilities of the locked packages (needs the network)
	scripts/audit.sh

format: setup ## write the format and the fixes that lint knows
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lock: setup ## resolve requirements/*.lock again from pyproject.toml (PYTHONS="python3.11 python3.12")
	$(PY) scripts/lock.py $(foreach python,$(or $(PYTHONS),python3.11 python3.12),--python $(python))

clean: ## remove caches and build outputs; data, runs and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv and .vamba (all data and runs of the demo)
	rm -rf $(VENV) .vamba
