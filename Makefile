# make demo   install the package into .venv and train the quickstart
# make test   install what the tests need, then lint, check types and run every test
# make lint   ruff and mypy only
# make bench  what the search costs beyond its own steps, beside plain loops: at last one table
# make docs   write docs/settings.md and build the pages of docs/ into build/site
# make gpu-folder  make build/gpu, from which bench/gpu/run.sh checks a GPU without Ray and network
# make test-lowest  run the core tests with the oldest versions that pyproject.toml admits
# make clean  remove .venv and the caches; runs/ stays, it holds results

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-lowest lint bench docs gpu-folder clean

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
	$(BIN)/python -m bench.snapshot
	$(BIN)/python -m bench.probe_validation
	$(BIN)/python -m bench.deciding
	$(BIN)/python -m bench.stage_overhead
	$(BIN)/python -m bench.snapshot_store
	$(BIN)/python -m bench.table

# Both packages are unpacked, not installed.
gpu-folder: $(VENV)/.installed-test
	mkdir -p build/debian
	cd build/debian && apt-get download dataset-fashion-mnist sword-text-web
	for package in build/debian/*.deb; do dpkg-deb -x $$package build/debian; done
	$(BIN)/python -m bench.gpu.folder --fashion build/debian/usr/share/datasets/fashion-mnist \
		--sword build/debian/usr/share/sword/modules --out build/gpu

docs: $(VENV)/.installed-test
	$(BIN)/python docs/settings_page.py
	$(BIN)/mkdocs build --site-dir build/site

# The lower bounds of pyproject.toml, in an environment of their own. What old versions warn of fails
# no test here. Two tests are left out, whose numbers are those of newer versions' last bits: whether
# a constant series is trusted, and how many probes a tiny run takes.
LOWEST_PYTHON ?= python3.10
LOWEST_VENV := .venv-lowest
CORE_TESTS := tests/algorithm tests/training tests/report tests/sinks tests/commands \
	tests/test_config.py tests/test_schedule.py tests/test_replay.py tests/test_task.py \
	tests/test_lanes.py tests/cluster/test_local_run.py tests/cluster/test_default_run.py \
	tests/cluster/test_run_result.py tests/cluster/test_ray_run.py

test-lowest:
	$(LOWEST_PYTHON) -m venv --clear $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint lowest.txt --requirement lowest.txt --editable '.[paper,plot]'
	$(LOWEST_VENV)/bin/python -m pytest --override-ini filterwarnings= $(CORE_TESTS) \
		--deselect tests/algorithm/forecast/test_bounded_exponential.py::test_constant_series_stays_and_is_trusted \
		--deselect tests/cluster/test_default_run.py::test_the_run_is_searched_once_and_trained_at_one_lr

clean:
	rm -rf $(VENV) $(LOWEST_VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

# Each step leaves a stamp when it has ended well, so that a second call does nothing and a
# broken one starts again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python %d.%d is too old, ray_autolrs needs 3.10 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing ray_autolrs into $(VENV); torch and its CUDA libraries take a few minutes."
	$(PIP_INSTALL) --editable '.[examples,paper,plot]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing ray_autolrs and what its tests need into $(VENV); this takes a few minutes."
	$(PIP_INSTALL) --editable '.[test]'
	touch $(VENV)/.installed $@
