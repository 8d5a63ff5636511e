# Every target sets itself up in .venv, with the versions of constraints.txt. Python 3.11 or newer:
#   make demo PYTHON=python3.12
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A worker that has nothing left takes over half of what another has before it: tests depend on no order.
PYTEST_ARGS ?= -n 2 --dist worksteal

export KERAS_BACKEND := tensorflow
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-promises test-slow test-arm lint format bench examples notebooks docs install clean

demo: $(STAMP)
	$(BIN)/keras-kd demo --dataset digits --out exports/digits

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

# The tests that take long and alone prove what the documentation promises.
test-promises: $(STAMP)
	$(BIN)/python -m pytest -q -m promise $(PYTEST_ARGS)

# All that `test` leaves out.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m 'slow or promise' $(PYTEST_ARGS)

# Files on 64-bit Arm under qemu, which is unpacked into a folder; skipped where that is impossible.
test-arm: $(STAMP)
	@tools/arm.sh build/arm $(BIN)/python || { echo "make test-arm: skipped"; exit 0; }; \
	  KERAS_KD_ARM=$(CURDIR)/build/arm $(BIN)/python -m pytest -q -m arm tests/export/test_on_arm.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Prints the ratios of benchmarks/bench_*.py with their bounds, and writes exports/benchmarks.json.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

# Every example in at most a minute, and their tables.
examples: $(STAMP)
	$(BIN)/python examples/run_all.py --quick

notebooks: $(STAMP)
	$(BIN)/python examples/make_notebooks.py

# The site is written to build/site; a warning is an error (with --quiet it would be none).
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is missing or older than 3.11, for which constraints.txt is made." \
	    "Install Python 3.11 or newer and run: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; some 3 GB, a few minutes) ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@log=$$(PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -q -e '.[dev,docs,examples]' 2>&1) \
	  || { echo "$$log" >&2; echo "make: the installation failed; see above" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
