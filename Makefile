# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-faults test-lowest lint bench clean

quickstart: .venv/installed
	$(BIN)/python train.py experiment=quickstart

test: .venv/installed
	$(BIN)/python -m pytest

# Faults injected into runs, the slow ones too; ends with a table of what was survived.
test-faults: .venv/installed
	$(BIN)/python -m pytest -m fault

# The tests with the lowest version of every dependency that pyproject.toml admits.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct \
		--editable ".[timm,onnx,sweep,dev]"
	.venv-lowest/bin/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make bench BENCH="root=<dogscats> weights=<file>"; see benchmarks/run.py
bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[timm,dev,bench]"
	$(BIN)/python -m benchmarks.run $(BENCH)

# torch and torchvision must be a matching pair, so one pip command resolves both.
.venv/installed: pyproject.toml
	@echo "Installing into .venv (PyTorch is large: some minutes the first time) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[timm,onnx,sweep,dev]"
	@touch $@

clean:
	rm -rf .venv .venv-lowest
