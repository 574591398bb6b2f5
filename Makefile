# `make help` lists what there is. Needs GNU make and a Python >= 3.11; everything else is put into .venv.
# Another interpreter: make test PYTHON=/path/to/python3.12

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)

# A user's PYTHONPATH, PYTHONHOME or pip settings must not reach into the environment made here.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV VIRTUAL_ENV

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: $(STAMP) ## create .venv with all that is needed; done again when pyproject.toml changes

$(STAMP): pyproject.toml
	@python=""; \
	for candidate in $(CANDIDATES); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "vigil needs Python 3.11 or newer, and none of these is: $(CANDIDATES). Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		rm -rf $(VENV); \
		"$$python" -m venv $(VENV) || { \
			rm -rf $(VENV); echo "$$python can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-user -e '.[dev]'
	@touch $@

.PHONY: lint
lint: $(STAMP) ## style, format, and that imports point one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

.PHONY: test
test: lint types ## the gate: lint, types, all tests; tells which database it used and what it skipped
	$(BIN)/pytest --numprocesses 4 --dist worksteal $(ARGS)

.PHONY: demo
demo: $(STAMP) ## a backfill against a simulated exchange and an embedded Postgres: no account, no Docker
	$(BIN)/vigil-backfill demo $(ARGS)

.PHONY: run
run: $(STAMP) ## vigil-backfill run, e.g. make run ARGS="--help"
	$(BIN)/vigil-backfill run $(ARGS)

$(BENCH_STAMP): $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-user -e '.[dev,bench]'
	@touch $@

.PHONY: bench
bench: $(BENCH_STAMP) ## measure against the baselines (a quarter of an hour)
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-check
bench-check: $(STAMP) ## compare a quick measurement with benchmarks/recorded.json; names what fell
	$(BIN)/python -m benchmarks.check $(ARGS)

.PHONY: clean
clean: ## remove .venv and caches; never data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
