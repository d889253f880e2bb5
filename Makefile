# make demo   install the package into .venv and train the quickstart
# make test   install what the tests need, then lint, check types and run every test
# make lint   ruff and mypy only
# make bench  time steps, count memory and copy snapshots beside plain loops; a table each
# make clean  remove .venv and the caches; runs/ stays, it holds results

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed
	$(BIN)/python jobs/quickstart.py

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench.steps
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.snapshot_store

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

# Each step leaves a stamp when it has ended well, so that a second call does nothing and a
# broken one starts again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python %d.%d is too old, ray_autolrs needs 3.10 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing ray_autolrs into $(VENV); torch and its CUDA libraries take a few minutes."
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing ray_autolrs and what its tests need into $(VENV); this takes a few minutes."
	$(PIP_INSTALL) --editable '.[test]'
	touch $(VENV)/.installed $@
