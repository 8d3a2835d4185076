# On a fresh machine, start with `make quickstart` or `make test`. Both install into .venv if needed.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := timm,onnx,demo,sweep,loggers,heif,parquet,dev

.PHONY: quickstart test test-slow test-faults test-lowest test-with lint bench clean

quickstart: .venv/installed
	$(BIN)/python train.py experiment=quickstart

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Tests that take over 10 seconds, or vary what a quicker one checks; run before a release.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow -n 2 -o faulthandler_timeout=600

# All fault-injection tests, including the slow ones. Ends with a table of the results.
test-faults: .venv/installed
	$(BIN)/python -m pytest -m fault -n 2 -o faulthandler_timeout=600

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[timm,dev,bench]"
	$(BIN)/python -m benchmarks.run $(BENCH)

# torch and torchvision must match, so one pip command resolves both.
.venv/installed: pyproject.toml
	@echo "Installing into .venv (PyTorch is large; the first time takes some minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[fast,$(EXTRAS)]"
	@touch $@

clean:
	rm -rf .venv .venv-*
