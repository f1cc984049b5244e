# Every target sets up what it needs: a fresh clone and `make demo` or `make test` is enough.
# The set-up runs again only when pyproject.toml or constraints.txt change.
#
#   make demo    the whole loop on the miniature world, then a report
#   make test    style, types and every test
#   make check   style and types alone
#   make clean   remove what the targets above have made, runs/ excepted
#
# PYTHON is the interpreter (3.11 or newer) that the environment is made with. TORCH_INDEX is a
# package index to take torch alone from, such as one with builds for the CPU only.

PYTHON ?= python3
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What looks for barriers in the pages of the labeling service; tests/browser/conftest.py has its hash.
AXE := build/axe-core-4.14.1/axe-core-4.14.1.tgz
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check format clean

demo: $(READY)
	$(BIN)/heed demo

# Two workers of one thread each: on small machines, threads of torch only get in the way.
test: check $(AXE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -rs --quiet

$(AXE):
	mkdir -p $(@D)
	npm pack --silent --pack-destination $(@D) axe-core@4.14.1 > /dev/null

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first and alone: only the pinned build can then satisfy the open ranges of the rest.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
		"$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable '.[train,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
