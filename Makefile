# `make demo` and `make test` need Python 3.11 or newer, pip and make; they build .venv from requirements.lock first.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Models that benchmarks/realmodels.py measures; the benchmark is left out where the folder is not there.
REALMODELS ?=
# Threads of each of the two test processes.
THREADS ?= 1

.PHONY: help venv demo test coverage crash check fix bench study-check readme lock
.DEFAULT_GOAL := help

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

venv: $(STAMP) ## Build .venv from requirements.lock; does nothing when it is current.

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: venv ## Train two small networks, audit them from their probabilities, compare with the exact values.
	$(BIN)/fimaudit demo

test: venv ## Run the test suite.
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not coverage"

coverage: venv ## Simulate whether intervals hold, at length.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m coverage

crash: venv ## Kill and disturb runs at every system call, and cut their power, then resume; takes hours and strace.
	@mkdir -p runs
	OMP_NUM_THREADS=1 PYTHONPATH=.:adapters $(BIN)/python -m scripts.crash --power 1 --json runs/crash.json

check: venv ## Lint, format, types, and what may import what.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: venv ## Repair what lint and format can repair.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## Run each benchmark; figures go to runs/bench/*.json.
	@mkdir -p runs/bench
	@set -e; for file in $(wildcard benchmarks/[a-z]*.py); do \
		name=$$(basename $$file .py); arguments=; \
		if [ $$name = realmodels ]; then \
			if [ ! -d "$(REALMODELS)" ]; then echo "== $$name: left out, give a folder of models with REALMODELS=..."; continue; fi; \
			arguments="$(REALMODELS)"; \
		fi; \
		echo "== $$name"; $(BIN)/python $$file $$arguments --json runs/bench/$$name.json; \
	done

study-check: venv ## Train and measure a small part of the study again and compare it with docs/study.md.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/study.py --check docs/study.md

readme: venv ## Run the demo and paste what it prints into README.md.
	$(BIN)/python scripts/readme.py

lock: venv ## Resolve requirements.lock anew from pyproject.toml.
	$(BIN)/python scripts/lock.py
