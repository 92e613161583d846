# Everything runs in .venv, which these targets make. Only Python >= 3.10, make and git are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist worksteal --durations=20

.PHONY: demo test test-fast soak fuzz slurm-test lint types check env clean

demo: $(VENV)/.installed
	$(BIN)/deepgcn demo

# A test process per core; then those tests that measure time, with nothing beside them.
test: env
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone"
	$(BIN)/python -m pytest -m alone

test-fast: env
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone and not slow"
	$(BIN)/python -m pytest -m "alone and not slow"

# Kills and starves commands for so many minutes, and compares what they then make (Linux).
MINUTES ?= 10
SEED ?= 0
soak: env
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED) --out soak.jsonl

# Gives every reader of files random inputs; chosen by the code they reach, if atheris is installed.
fuzz: env
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

# Starts a SLURM of one node and gives it jobs; needs root, and apt-get where SLURM is not installed.
slurm-test: env
	tests/slurm/single_node.sh $(BIN)/python -m pytest -m slurm tests

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

check: lint types test

env: $(VENV)/.installed-dev

# The package alone, for its users and the demo; the tests and checks need more.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "deepgcn needs Python 3.10 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 demo" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
