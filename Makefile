# `make demo` and `make test` work on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test bench lint check speech clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python jobs/demo.py --output out/demo

# Two files at a time; a thread each, or the two would fight for two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

bench: install
	$(BIN)/python jobs/bench/encode.py
	$(BIN)/python jobs/bench/lm.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What to run before a commit: lint, and the tests that take seconds.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not job"

# Needs espeak-ng and flite; its output is committed.
speech: install
	$(BIN)/python tests/make_speech.py

clean:
	rm -rf $(VENV) out
