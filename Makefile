# `make demo` and `make test` need Python 3.11 or newer, pip and make; they build .venv from requirements.lock first.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Models that benchmarks/realmodels.py measures; the benchmark is left out where the folder is not there.
REALMODELS ?=
# Processes of the tests, and threads of each.
WORKERS ?= 2
THREADS ?= 1

.PHONY: help venv demo test servers coverage crash simulate fuzz advisories check fix bench study-check readme lock docs llms release-check
.DEFAULT_GOAL := help

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(STAMP) ## Build .venv from requirements.lock; does nothing when it is current.

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@# What a CUDA build of torch needs beyond; nothing for any other.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: venv ## Train two small networks, audit them from their probabilities, compare with the exact values.
	$(BIN)/fimaudit demo

test: venv ## Run the test suite.
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m "not coverage and not servers"

servers: venv ## Install servers of the shelf's presets, each into an environment of its own, and audit what they serve.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m servers

coverage: venv ## Simulate whether intervals hold, at length.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m coverage

crash: venv ## Kill and disturb runs at every system call, and cut their power, then resume; hours, with strace; goes on where it was left.
	@mkdir -p runs
	OMP_NUM_THREADS=1 PYTHONPATH=.:adapters $(BIN)/python -m scripts.crash --power 1 --kept runs/crash-points.jsonl --json runs/crash.json

simulate: venv ## Simulate whole audits under faults, kills and resumes: SEEDS=10000 from FIRST=0, or SEED=1234 alone.
	OMP_NUM_THREADS=1 $(BIN)/python scripts/simulate.py $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0))

fuzz: venv ## Fuzz what reads files and answers: MINUTES=30 of each of READERS (all when left out).
	$(BIN)/python scripts/hostile_files.py
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py $(READERS) --minutes $(or $(MINUTES),30)

advisories: venv ## Ask an index of advisories about every pinned package; says so where none can be reached.
	$(BIN)/python scripts/advisories.py

check: venv ## Lint, format, types, and what may import what.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file scripts/mypy.ini benchmarks scripts
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

docs: venv llms ## Build the site into docs/_build/html; every block of it runs, and a warning is an error.
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m sphinx -W --keep-going -j 2 -b html docs docs/_build/html

llms: venv ## Write llms.txt, the table of contents for programs that read, from the pages of the site.
	$(BIN)/python scripts/llms_txt.py

release-check: venv ## Build sdist and wheel, check them, install the wheel alone and run its demo.
	$(BIN)/python scripts/release_check.py
