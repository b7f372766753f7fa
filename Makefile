# make demo, make test: both first make .venv, which is quick when it stands; make test adds what only tests need.
PYTHON ?= python3
BUDGET ?= 1m
MEASURE ?= 2m
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
PIP := $(BIN)/pip install --disable-pip-version-check
# Each file in one process, so that what its tests share is made once; with more processes they would need much memory.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help setup setup-test demo docs lint test test-slow test-all
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

setup: $(VENV)/ready  ## make .venv with what running needs, pinned

setup-test: $(VENV)/ready-test  ## add what linting and testing need, pinned

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11)" 2> /dev/null \
	  || { echo "$(PYTHON) is no Python 3.11 or newer; this names one: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/ready-test: requirements-test.txt $(VENV)/ready
	$(PIP) -r requirements.txt -r requirements-test.txt
	touch $@

demo: setup  ## choose a network for handwritten digits, then test changes of it: three minutes, into demo/
	$(BIN)/convwise choose digits --budget $(BUDGET) --out demo
	-$(BIN)/convwise measure demo --most 8 --budget $(MEASURE)
	$(BIN)/convwise report demo

docs: $(DOCS)/ready  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict -q

# In a .venv of its own, which sees what is in the other one: what the site needs changes nothing there.
$(DOCS)/ready: requirements-docs.txt $(VENV)/ready
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -qq --disable-pip-version-check -r requirements-docs.txt
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$($(DOCS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/product.pth"
	touch $@

lint: setup-test  ## ruff, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## lint, types, and the fast tests
	$(PYTEST) -m "not slow"

test-slow: setup-test  ## the tests that take minutes
	$(PYTEST) -m slow

test-all: test test-slow  ## everything, as .ci/run
