# Two commands do all the set-up on a fresh Debian or Ubuntu machine: `make run` and `make test`.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 4
PYTHON ?=
SETUP := PYTHON="$(PYTHON)" scripts/setup
PACKAGES := gantry scheduler executor shared local

.PHONY: help setup setup-dev run test test-storm test-killed chaos test-pythons lint format bench clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## a virtual environment with Gantry in it
	@$(SETUP)

setup-dev: ## the same, with what the tests and linters need
	@$(SETUP) --dev

run: setup ## a cluster on this machine, a real pod in it, its log; then clean up (needs root)
	@$(BIN)/gantry demo --manifest examples/hello.yaml

test: setup-dev ## all tests
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-storm: setup-dev ## 1,000 pods on 200 simulated agents while everything fails (GANTRY_SEED says how), long random histories
	GANTRY_SCALE=full $(BIN)/python -m pytest tests/scale
	GANTRY_HISTORIES=2000 $(BIN)/python -m pytest tests/engine/test_invariants.py -o timeout=0

test-killed: setup-dev ## kill -9 of anything, KILLS=2000 times, and nothing may be left (needs root; GANTRY_SEED says what)
	GANTRY_KILLS=$(or $(KILLS),2000) $(BIN)/python -m pytest tests/killed

chaos: setup-dev ## real processes, faults, a judge: DURATION=10m SEED=7 SEEDS=20 ONLY=clock STORE=sqlite (needs root; tests/chaos/README.md)
	PYTHONPATH=tests/chaos $(BIN)/python -m harness --duration $(or $(DURATION),60s) --seed $(or $(SEED),1) --seeds $(or $(SEEDS),1) --only "$(ONLY)" --store $(or $(STORE),zookeeper)

test-pythons: ## install and run the unit tests on every CPython 3.11 to 3.13 found here
	@scripts/test-pythons

lint: setup-dev ## ruff, mypy, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev ## the benchmarks (ratios against peers, measured in one run)
	$(BIN)/python -m benchmarks

clean: ## remove what setup and the tools made (not the cluster's state in .gantry)
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
