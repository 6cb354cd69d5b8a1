# Everything a fresh machine with Python 3.11 or later and make needs: each target sets up what it stands on.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint lock clean

demo: .venv/ready
	$(BIN)/tintype demo

test: .venv/ready lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pinned requirements are installed by uv, in a fraction of pip's time; the versions are the same with either. They
# are compiled at once, on all CPUs: otherwise the first command compiles torch while one waits for it, and where Python
# is kept from writing what it compiled, as in many containers, each command and each worker does.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Pin anew what pyproject.toml allows. No addresses in the file: it installs from whatever index the machine uses.
lock: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra build --upgrade --no-header --no-annotate \
		--no-emit-index-url --python-version 3.11 --output-file requirements.txt

clean:
	rm -rf .venv build archives *.egg-info
