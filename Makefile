# On a fresh machine, start with `make quickstart`, which installs into .venv what its run needs, or with `make test`,
# which installs the rest, too. `make quickstart CPU=1` installs PyTorch without CUDA.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := timm,lite,onnx,demo,sweep,loggers,heif,parquet,dev

# That build of PyTorch is on an index of its own, which uv knows.
ifeq ($(CPU),1)
INSTALL = $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu
else
INSTALL = $(PIP)
endif

.PHONY: quickstart test test-slow test-faults test-lowest test-with lint bench clean

quickstart: .venv/quickstart
	$(BIN)/python train.py experiment=quickstart

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Tests that take over 10 seconds, or vary what a quicker one checks; run before a release.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow -n 2 -o faulthandler_timeout=600

# All fault-injection tests, including the slow ones. Writes the table of the results.
test-faults: .venv/installed
	FAULTS_PAGE=docs/measurements/faults.md $(BIN)/python -m pytest -m fault -n 2 -o faulthandler_timeout=600

# Tests with the lowest version of each dependency that pyproject.toml allows; without the extra fast.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--editable ".[$(EXTRAS)]"
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile

# Tests with other versions of torch and torchvision: make test-with TORCH=2.10.0 TORCHVISION=0.25.0
test-with:
	$(PYTHON) -m venv .venv-torch-$(TORCH)
	.venv-torch-$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-torch-$(TORCH)/bin/uv pip install --quiet --python .venv-torch-$(TORCH)/bin/python \
		torch==$(TORCH) torchvision==$(TORCHVISION) --editable ".[$(EXTRAS)]"
	.venv-torch-$(TORCH)/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make bench BENCH="root=<dogscats> weights=<file>"; see benchmarks/run.py
bench: .venv/installed
	$(PIP) --editable ".[timm,dev,bench]"
	$(BIN)/python -m benchmarks.run $(BENCH)

# torch, torchvision and torchcodec must match, so one command resolves all.
.venv/quickstart: pyproject.toml
	@echo "Installing into .venv (PyTorch is large; the first time takes some minutes) ..."
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable ".[fast,timm]"
	@touch $@

# pip keeps the torch that is there.
.venv/installed: .venv/quickstart
	$(PIP) --editable ".[fast,$(EXTRAS)]"
	@touch $@

clean:
	rm -rf .venv .venv-*
