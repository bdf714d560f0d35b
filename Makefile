# `make demo` and `make test` work on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test faults bench lint check speech clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[pipeline,train,dev]'
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[scores]' || \
	  echo "pesq and resemblyzer are left out, and their tests: they need a C compiler"
	touch $@

demo: install
	$(BIN)/python jobs/demo.py --output out/demo

# Two files at a time; a thread each, or the two would fight for two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Kills, failing stores, full disks, mutated inputs and races, on purpose. Prints a table. Under 40
# minutes on two cores; `make test` has a short form of each.
faults: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults

bench: install
	$(BIN)/python jobs/bench/encode.py
	$(BIN)/python jobs/bench/lm.py
	$(BIN)/python jobs/bench/feed.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Before a commit: lint, and the tests that start no job. Under two minutes on two cores.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not job and not slow"

# Needs espeak-ng and flite; its output is committed.
speech: install
	$(BIN)/python tests/make_speech.py

clean:
	rm -rf $(VENV) out
