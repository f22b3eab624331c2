# The whole developer interface. Needs Python >= 3.11, git and make; everything else is installed here, by pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test check bench cards faults fuzz clean
.DELETE_ON_ERROR:

$(VENV)/.product: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

$(VENV)/.tools: $(VENV)/.product
	$(PIP) -e '.[test,check]'
	touch $@

demo: $(VENV)/.product ## the whole river on the embedded sample
	$(BIN)/gristmill demo

test: $(VENV)/.tools ## every promise, in about ten minutes
	$(BIN)/python -P -m pytest -n 2 --dist loadfile

check: $(VENV)/.tools ## lint, types, import directions, docs match the program
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports
	$(BIN)/python -P -m pytest tests/contract/test_docs.py tests/contract/test_surface.py tests/contract/test_house.py

bench: $(VENV)/.tools ## side by side with peers; results go to benchmarks/RESULTS.md by hand
	$(BIN)/python -P benchmarks/filter_speed.py

cards: $(VENV)/.product ## regenerate the gallery in data_cards/
	$(BIN)/python -P docs/gallery.py

faults: $(VENV)/.tools ## every call to the disk fails once, 150 kills, every kind of file damaged; prints the counts
	GRISTMILL_FAULTS=1 $(BIN)/python -P -m pytest tests/faults -n 2 --dist load

fuzz: $(VENV)/.tools ## each fuzz target for FUZZ_SECONDS (default 120) under libFuzzer; a finding stops it, with the input
	for target in line_reader formats manifest card tables; do \
	$(BIN)/python -P tests/fuzz/run.py $$target -max_total_time=$(or $(FUZZ_SECONDS),120) -verbosity=0 -print_final_stats=1 || exit 1; done

clean:
	rm -rf $(VENV) demo build *.egg-info
