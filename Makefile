# Two commands for a newcomer: `make demo` and `make test`. Both create .venv and install into it first.
#   PYTHON       which Python (3.11 or newer) makes .venv
#   TORCH_INDEX  where PyTorch comes from; https://download.pytorch.org/whl/cpu has builds without CUDA
#   ARGS         passed on to the demo, pytest or the benchmark, e.g. make demo ARGS="--lm tiny"
#   BENCH_VENV   where `make bench` installs the peers
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
BENCH_VENV ?= .venv-bench

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

.PHONY: demo test check docs bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.sae
	$(BIN)/matryo sae demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python scripts/cli_page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The benchmark has an environment of its own, for the peers' sake. Those that pin what excludes the others' needs come
# without their dependencies; bench/contender.py says how they are imported all the same.
bench:
	$(MAKE) $(BENCH_VENV)/.peers VENV=$(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) site build dist .pytest_cache .ruff_cache .import_linter_cache src/*.egg-info

# Stamps: a second `make` installs nothing unless pyproject.toml or constraints.txt changed.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("matryo needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@# Debian without python3-venv has no ensurepip; its pip can fill the environment from outside.
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	touch $@

# PyTorch first and by itself, so that the choice of its index holds for nothing else.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.sae: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dashboard]'
	touch $@

$(VENV)/.peers: $(VENV)/.sae bench/constraints.txt
	$(PIP) -c bench/constraints.txt sae-lens eai-sparsify scikit-learn scipy einops
	$(PIP) -c bench/constraints.txt --no-deps dictionary-learning overcomplete
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.sae
