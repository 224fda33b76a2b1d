# Needs only Python (>= 3.10) and make: every target first makes the environment in $(VENV).
#
#   make demo    a checkpoint in the original format -> Transformers -> a fine-tuned tagger -> tagged text, in a few minutes
#   make test    what continuous integration runs: make check, then the tests
#   make check   ruff (lint and format) and mypy
#   make slow    the tests marked slow
#   make clean   caches and outputs; the environment stays

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# torch uses every core by itself; the tests run side by side, one thread each.
WORKERS ?= 2
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test check slow clean
.DEFAULT_GOAL := test

demo: $(VENV)/.train
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 $(BIN)/python examples/demo.py --output_dir .demo

test: check
	$(PYTEST) -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(VENV)/.dev
	$(PYTEST) -m slow

clean:
	rm -rf .demo build dist outputs *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The stamp of each set of extras: installed again when the requirements change.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@
