# `make demo` runs the main job, `make test` the tests; both set up .venv first. Nothing else is needed but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Some images set it, as a container that is built once may. Here hundreds of processes (every Ray worker, every command
# under test) would each parse all that they import again: 0.5 to 2 seconds apiece. Byte code is kept when first needed.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test lint docs bench gpu soak clean

demo: setup
	$(BIN)/morphogen demo

# Two processes, whatever the machine: two clusters of Ray and two S3 servers are what two cores and 24 GiB bear.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup
	$(BIN)/python -m pytest -m soak

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks.generator
	$(BIN)/python -m benchmarks.lake

# Sets nothing up, so that a machine without a network can run it: benchmarks/gpu/packages.txt says what must be there.
MINUTES ?= 8
OUT ?= gpu-results
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --minutes $(MINUTES) --out $(OUT)

setup: $(STAMP)

# torch goes first and pinned: left to the resolver, it may be replaced by another build of several gigabytes.
# uv resolves and installs the rest in seconds; pip is the fallback where uv cannot reach an index that pip can.
# pip knows no overrides (pyproject.toml says why torchvision is left out), so it takes it out again.
# Nothing is compiled at install: of 430 MB of Python, what is imported at all is less than half.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -q uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	  || { $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' \
	    && $(BIN)/python -m pip uninstall --disable-pip-version-check -y torchvision; }
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
