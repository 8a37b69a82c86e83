# Everything runs in .venv, which the first target that needs it makes. A stamp file in it says which
# extras are installed; changing pyproject.toml or constraints.txt installs again.

PYTHON ?= python3
# The CPU build where one lies ready; any torch that sentence-transformers accepts will do.
TORCH ?= torch==2.13.0
# More arguments: make demo ARGS="--serve", make pytest ARGS="-k merge -x"
ARGS ?=
# Of make soak.
ROUNDS ?= 200
SEED ?= 20261124

VENV := .venv
BIN := $(VENV)/bin
# -qq: errors only. --no-compile: Python compiles what is imported; compiling all of it takes a minute.
PIP := $(BIN)/python -m pip install -qq --no-compile --constraint constraints.txt
VENV_READY := $(VENV)/.made
DEMO_READY := $(VENV)/.installed-demo
TEST_READY := $(VENV)/.installed-test

NEEDS := nestvec needs Python 3.11 or newer; $(PYTHON)
REMEDY := make PYTHON=/path/to/python3.11

# Compiled once, whatever the shell says: else each of the tests' hundreds of processes compiles all
# that it imports, which takes longer than what it is started for.
export PYTHONDONTWRITEBYTECODE :=
# Small products spread over threads wait for the slowest one; the servers set the same.
export OPENBLAS_NUM_THREADS := 1
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint style types imports protos protos-check protos-lint pytest soak model format \
	install-demo install-test clean

help:
	@echo "make demo     index real text and search it in all three classes"
	@echo "make test     every check: lint, then the tests"
	@echo "make lint     the checks alone: style, types, imports, protos, freshness"
	@echo "make pytest   the tests alone"
	@echo "make soak     the fault suite at length: ROUNDS=200 times kill -9, SEED=n for another run"
	@echo "make model    retrain the default model from Debian's packages (about an hour; into build/)"
	@echo "make format   format and mend what can be mended"
	@echo "make protos   regenerate services/nestvec/v1 from protos/"
	@echo "make clean    remove .venv and caches"

demo: install-demo
	@$(BIN)/nestvec demo $(ARGS)

test: lint pytest

lint: style types imports protos-lint protos-check

style: install-test
	@echo "== style"
	@$(BIN)/ruff format --check --quiet . || { echo "run make format"; exit 1; }
	@$(BIN)/ruff check --quiet .

types: install-test
	@echo "== types"
	@$(BIN)/mypy

imports: install-test
	@echo "== imports"
	@$(BIN)/lint-imports --no-logo

protos-lint: install-test
	@echo "== protos"
	@$(BIN)/buf lint

protos-check: install-test
	@echo "== generated code"
	@$(BIN)/python tools/protos.py --check

# In parts at once: much of it waits for processes to start. Files named in ARGS run alone.
pytest: install-test
	@echo "== tests"
	@$(BIN)/python tools/parts.py $(ARGS)

# Hours: 200 rounds take ten minutes, and so does the fuzzing; faults of clusters and regions take longer. The seed is printed with a failure and repeats its kills.
soak: install-test
	@echo "== $(ROUNDS) rounds of kill -9, and every fault of a cluster"
	@NESTVEC_FAULT_LONG=1 NESTVEC_FAULT_ROUNDS=$(ROUNDS) NESTVEC_FAULT_SEED=$(SEED) \
		$(BIN)/pytest tests/fault $$(grep -rl 'long_runs import' tests --include='test_*.py' | grep -v ^tests/fault) -x $(ARGS)

# Into build/, beside the one in use; what it fetched and encoded is kept for another run.
model: install-test
	@$(PIP) --editable '.[train]'
	@PYTHONPATH=. $(BIN)/python -m tools.model.make build/model $(ARGS)

format: install-test
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

protos: install-test
	@$(BIN)/python tools/protos.py

install-demo: $(DEMO_READY)

install-test: $(TEST_READY)

$(VENV_READY):
	@command -v $(PYTHON) >/dev/null || { echo "$(NEEDS) was not found: $(REMEDY)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit( \
		"$(NEEDS) is " + sys.version.split()[0] + ": $(REMEDY)")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(DEMO_READY): pyproject.toml constraints.txt | $(VENV_READY)
	@echo "installing nestvec[cpu] into $(VENV) (about half a minute, once)"
	@$(PIP) --editable '.[cpu]'
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt | $(VENV_READY)
	@echo "installing nestvec with everything that the tests need into $(VENV) (some minutes, once)"
	@$(PIP) '$(TORCH)'
	@$(PIP) --editable '.[cpu,dev,cluster,encoder,parquet]'
	@touch $(DEMO_READY) $@

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
