# Two commands on a fresh machine: `make play` and `make test`. `make help` lists the rest.
# Needs make and Python 3.11 or newer with its venv module; everything else is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# The one place where torch is pinned. Plain PyPI resolves it to the build with CUDA; point pip at a CPU build for a smaller one.
TORCH ?= torch==2.13.0
# Where Debian puts its browser; tests that drive it are marked `browser`.
CHROMIUM ?= /usr/bin/chromium
# Test processes side by side, and extra arguments for each command.
TEST_WORKERS ?= 2
TEST_ARGS ?=
PLAY_ARGS ?=
TRAIN_ARGS ?=
BENCH_ARGS ?=

PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt
MUTOSCOPE = $(VENV)/bin/mutoscope
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q $(TEST_ARGS)
# Where the style checks look: the folders of these that exist.
CHECKED = $(wildcard src tests tools benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup play test test-long test-gpu test-gpu-bare check format types bench train-doom train-scroll clean browser force

help:
	@echo "make play          play the bundled world in the browser           (PLAY_ARGS='--port 8080 --no-open')"
	@echo "make test          install what tests need, a browser included, and run the suite"
	@echo "make check         format, lint, types, dependency direction between the rooms, style limits"
	@echo "make setup         install everything that development needs into $(VENV)"
	@echo "make bench         latency and throughput on this machine, as JSON"
	@echo "make train-scroll  the whole chain on a procedural world, in minutes on two cores"
	@echo "make train-doom    the whole chain on ViZDoom"
	@echo "make test-long     the tests that take minutes;  make test-gpu  those that need a CUDA device"
	@echo "make test-gpu-bare the same with whatever python3 has: torch, NumPy, safetensors and pytest, nothing installed"
	@echo "make format        rewrite the sources in the house's format;  make clean  remove $(VENV) and caches"

# Environment. Each stamp is newer than what was installed; a warm call does nothing.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mutoscope needs Python 3.11 or newer, $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# Torch comes first, so that nothing that depends on it chooses another build. A changed TORCH is installed anew.
ifneq ($(TORCH),$(shell cat $(VENV)/.torch 2>/dev/null))
$(VENV)/.torch: force
endif
$(VENV)/.torch: $(VENV)/.created constraints.txt
	$(PIP) '$(TORCH)'
	@echo '$(TORCH)' > $@

$(VENV)/.play: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) --editable '.[play]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.play

setup: $(VENV)/.dev

# Play and work.

play: $(VENV)/.play
	@$(MUTOSCOPE) play $(PLAY_ARGS)

bench: $(VENV)/.play
	@$(MUTOSCOPE) bench $(BENCH_ARGS)

train-doom: setup
	@$(MUTOSCOPE) train doom $(TRAIN_ARGS)

train-scroll: setup
	@$(MUTOSCOPE) train scroll $(TRAIN_ARGS)

# Tests and checks.

browser:
	@test -x $(CHROMIUM) || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "the browser tests need $(CHROMIUM); install it with: sudo apt-get install chromium" >&2; exit 1; fi

test: setup browser
	$(PYTEST) -n $(TEST_WORKERS) --dist loadfile

test-long: setup browser
	$(PYTEST) -m long

test-gpu: setup
	$(PYTEST) -m gpu

# On a machine where nothing can be installed: torch, NumPy, safetensors and pytest are enough, and no plugin of pytest's is needed.
test-gpu-bare:
	PYTHONPATH=src:tests:tests/train $(PYTHON) -m pytest --noconftest -c /dev/null --rootdir=. -p no:cacheprovider -q tests/gpu $(TEST_ARGS)

check: setup
	$(VENV)/bin/ruff format --check $(CHECKED)
	$(VENV)/bin/ruff check $(CHECKED)
	$(VENV)/bin/python tools/check_rooms.py
	$(VENV)/bin/python tools/check_style.py
	$(VENV)/bin/python tools/readme_tables.py --check
	$(VENV)/bin/mypy

types: setup
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff format $(CHECKED)
	$(VENV)/bin/ruff check --fix $(CHECKED)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
