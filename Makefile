# make train    trains the transformer on real English text (a minute or two on 2 cores)
# make test     style, types, import rules, and the default tests
# make slow     the tests left out of `make test` because they take long
# make gpu-test the tests that need a CUDA device
# make docs     builds the site of docs/ into site/
# make doctor   what is wrong or slow on this machine, and what mends it
# make clean    removes the virtual environment and all caches
#
# Each sets up the virtual environment in .venv itself, once, and again when pyproject.toml changes.
# Another Python: make train PYTHON=/path/to/python3.12

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
CANDIDATES := python py
else
BIN := .venv/bin
CANDIDATES := python3 python3.13 python3.12 python3.11 python
endif

IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# The first of the candidates that is Python 3.11 or later.
ifndef PYTHON
PYTHON := $(shell for p in $(CANDIDATES); do if $$p -c "$(IS_NEW_ENOUGH)" >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

VENV := .venv/.created
CORE := .venv/.installed-core
TEST := .venv/.installed-test
DOCS := .venv/.installed-docs

# Arguments for the project and for pytest: make train ARGS="training.max_steps=100", make test ARGS="-k norm".
ARGS ?=
# Test processes; by default two, each held to one thread in the matrix products (see conftest.py).
WORKERS ?= 2

.PHONY: help train test lint slow gpu-test docs doctor clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^# make/s/^# //p' Makefile

train: $(CORE)
	$(BIN)/python projects/custom_transformer/train.py $(ARGS)

doctor: $(CORE)
	$(BIN)/python -m tinygrad_edu doctor $(ARGS)

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(TEST)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

slow: $(TEST)
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not gpu" $(ARGS)

gpu-test: $(TEST)
	$(BIN)/python -m pytest -m gpu $(ARGS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

$(VENV):
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 or later found (tried: $(CANDIDATES)). Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; fi
	@"$(PYTHON)" -c "" 2>/dev/null || { echo "error: PYTHON=$(PYTHON) cannot be run. Name a Python 3.11 or later." >&2; exit 1; }
	@"$(PYTHON)" -c "$(IS_NEW_ENOUGH)" || { echo "error: Python 3.11 or later is needed, but PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || { echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: sudo apt install python3-venv" >&2; rm -rf .venv; exit 1; }
	@touch $@

$(CORE): pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# The tests' dependencies hold the core's: `make train` after `make test` installs nothing.
$(TEST): pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $(CORE) $@

$(DOCS): pyproject.toml | $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find tinygrad_edu projects tests -name __pycache__ -type d -prune -exec rm -rf {} +
