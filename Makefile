# Everything starts from Python 3.11 and make: the first target that needs it creates .venv and installs into it.
# With an environment that already has the dependencies: `make check VENV=path/to/it` (nothing is installed then).

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
PY := $(VENV)/bin/python
ARGS ?=

ifeq ($(VENV),.venv)
READY := .venv/.installed
else
READY := $(PY)
endif

.DEFAULT_GOAL := help
.PHONY: help demo up test test-postgres attack fuzz check bench sim notebooks

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(READY)  ## Four nodes, one of them lying, writers racing: about 15 seconds.
	$(PY) -m quorumcache.cli demo $(ARGS)

up: $(READY)  ## Run a local 4-node cluster until Ctrl-C.
	$(PY) -m quorumcache.cli up $(ARGS)

# What starts processes on purpose has the machine to itself; all else runs in two processes.
ALONE := tests/e2e
test: $(READY)  ## Run the tests, except those marked slow.
	$(PY) -m pytest -q -m "not slow" -n 2 --ignore=$(ALONE) $(ARGS)
	$(PY) -m pytest -q -m "not slow" $(ALONE) $(ARGS)

test-postgres: $(READY)  ## Run the tests that need a PostgreSQL server; it is installed where it is missing.
	$(PY) -m pytest -q -m postgres $(ARGS)

attack: $(READY)  ## Try all attacks of docs/threat-model.md against real sockets, slow ones too.
	$(PY) -m pytest -q -m attack $(ARGS)

fuzz: $(READY)  ## Fuzz all that reads bytes from elsewhere, with atheris: make fuzz SECONDS=600 for longer.
	$(PY) -m fuzz --seconds $(or $(SECONDS),60) $(ARGS)

check: $(READY)  ## Format, lint, types, import directions. Changes nothing.
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --strict quorumcache sim
	$(VENV)/bin/lint-imports

bench: $(READY)  ## Measure the hot path, many writers of one key, and compare-and-set on this machine: 5 minutes.
	$(PY) bench/hotpath.py $(ARGS)
	$(PY) bench/hotpath.py --storage sqlite-process $(ARGS)
	$(PY) bench/hotpath.py --primary 1 $(ARGS)
	$(PY) bench/manywriters.py $(ARGS)
	$(PY) bench/exact.py $(ARGS)
	$(PY) bench/exactcore.py
	$(PY) bench/contention.py

notebooks: $(READY)  ## Execute the notebooks, to see that they still run.
	$(PY) -m pytest -q --nbmake --nbmake-timeout=180 notebooks $(ARGS)

sim: $(READY)  ## Run 500 seeds in the cluster simulator; make sim ARGS="--help" for more.
	$(PY) -m sim $(or $(ARGS),seeds --count 500 --jobs 2)

# The stamp is written last, so an installation that was cut short is done again.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "quorumcache needs Python 3.11 or later, and $(PYTHON) is not. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into .venv, this once: a minute or two."
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@
