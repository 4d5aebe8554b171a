# `make demo` and `make test` need Python 3.11 or newer with venv, git and make. They install the rest into .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# The part of the suite that `make quick` runs: no Ray cluster, no server, no training.
QUICK := $(addprefix tests/,adapters backbones benchmarks embedded evaluation frames parity search report/test_count.py) \
	$(wildcard tests/test_*.py)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test exhaustive quick check format lint audit types env ui pretrain results bench-ranks bench-ingest bench-train bench-search prerequisites chromium clean

demo: env ## the whole pipeline on the embedded collections
	python pipelines/session.py dvc repro
	python pipelines/report.py --print

# Two processes, with the tests of a file in one of them: files share what is slow to set up, and most of them wait a lot.
# The order is that of tests/conftest.py, the longest files first. pytest-xdist would start with those of most tests.
test: env chromium lint types ## everything CI checks
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not exhaustive"

exhaustive: env ## further sizes of what the tests above cover, such as every published backbone
	python -m pytest -m exhaustive

quick: env ## the fast tests, under three minutes
	python -m pytest -m "not slow" $(QUICK)

check: format lint types quick ## before a commit; `make test` is the whole of it

format: env ## rewrites the source in the house format
	ruff check --quiet --fix --exit-zero .
	ruff format .

lint: env
	ruff check .
	ruff format --check .
	bandit --quiet --recursive --severity-level medium components pipelines bench
	@if command -v pip-audit >/dev/null; then $(MAKE) --no-print-directory audit; fi

audit: env ## known faults of the locked packages; needs pip-audit (`pipx install pip-audit`) and its network
	pip-audit --requirement requirements.lock --no-deps --disable-pip

types: env
	mypy components pipelines tests bench

env: $(STAMP) ## the exact environment of requirements.lock

$(STAMP): requirements.lock pyproject.toml | prerequisites
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

prerequisites:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "error: reeltune needs Python 3.11 or newer as '$(PYTHON)' (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "error: Python lacks the venv module (on Debian: apt install python3-venv)" >&2; exit 1; }
	@command -v git >/dev/null || { echo "error: git is missing; DVC and the records of origin need it" >&2; exit 1; }

# The registry's page is tested in a real browser. Without one the test is skipped and says so.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& echo "installing chromium for the browser test" \
		&& { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1; \
	} || echo "chromium is not installed: the browser test will skip"

ui: env ## the registry and all runs, on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri sqlite:///$(CURDIR)/mlflow.db --default-artifact-root $(CURDIR)/mlartifacts

pretrain: env ## trains the mini backbone again, although its weights are in the repository
	dvc repro --force --single-item pretrain

results: env ## three seeds of everything, as in docs/results.md
	dvc exp run -S 'run.seeds=[0,1,2]'
	python pipelines/report.py --print

bench-ranks: env ## time and peak memory of ranking N texts against N videos
	python bench/ranks.py

bench-ingest: env ## the cost of ingest compared with OpenCV, decord and PyAV in plain loops
	python -c 'import cv2' 2>/dev/null || python -m pip install --quiet 'opencv-python-headless>=4.8'
	python bench/ingest.py

bench-train: env ## time and memory of a training step compared with open_clip's frozen towers
	python bench/train.py
	dvc repro ingest
	python bench/workers.py

bench-search: env ## one query against faiss, recall, opening, memory, embedding, and adding one per cent
	python -c 'import faiss' 2>/dev/null || python -m pip install --quiet 'faiss-cpu>=1.10'
	python bench/search.py

clean: ## removes all outputs and keeps the environment
	rm -rf data outputs reports .reeltune mlflow.db* mlartifacts
