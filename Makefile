# The two commands: `make run` and `make test`. The rest is for those who change something.
PYTHON ?= python3
BIN := .venv/bin

run: .venv/installed
	$(BIN)/python run.py tabular-training

test: .venv/installed system
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile

compile: .venv/installed
	$(BIN)/python compile.py

# Debian packages that only the tests need; a machine that has them is left alone.
system:
	scripts/system-packages.sh chromium:chromium chromedriver:chromium-driver

lock: .venv/installed
	$(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-emit-package flowparts --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.txt
	echo uv | $(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-deps -c requirements.txt --custom-compile-command "make lock" - -o bootstrap.txt

readme: .venv/installed
	$(BIN)/python -m targets.readme

.venv/installed: requirements.txt pyproject.toml
	PYTHON=$(PYTHON) scripts/system-packages.sh
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r bootstrap.txt
	$(BIN)/uv pip sync -q --compile-bytecode --require-hashes requirements.txt
	$(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	touch $@

.PHONY: run test compile system lock readme
