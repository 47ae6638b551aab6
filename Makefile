# make demo: install, search cells on scikit-learn's digits, compare them with random ones (2 minutes on 2 cores).
# make test: install what the tests need; run the linter, the type checker and the unit tests (minutes).
# make test-all: the same with tests/end_to_end and the tests that are slow: whole products, real fits, processes that are killed.
# make aot: build every variant of every kernel for sm_90, without a GPU, and check what the compiler made of it (5 minutes).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
DEMO ?= runs/demo

.PHONY: demo check test test-all aot clean

demo: $(VENV)/installed
	$(RUN) -m benchmarks.demo --directory $(DEMO)

check: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: check
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow" --ignore tests/end_to_end

test-all: check
	KERNEL_EXAMPLES=12 $(RUN) -m pytest -n 2 --dist worksteal --durations 25

aot: $(VENV)/installed-test
	$(RUN) -m benchmarks.aot --all --table benchmarks/results/aot_sm90.md

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fusenas needs Python 3.11 or newer; name one with: make PYTHON=python3.11 demo" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python has no venv here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

$(VENV)/installed: $(VENV)/bin/python setup.cfg constraints.txt
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
