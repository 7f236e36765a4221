# Everything runs in .venv, which is made when it is missing.
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: check lint types imports test system growth chaos bench scale lock pictures clean

check: lint types imports test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

# Most tests wait most of the time: three at once. A file's tests share their servers, and stay together; their order
# is that of tests/conftest.py, and not by how many tests a file has.
test: $(INSTALLED)
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest -m "not alone" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# More of what the tests do for two minutes; needs root. CHAOS_SEED=N repeats the jobs and acts of a seed.
chaos: $(INSTALLED)
	CHAOS_JOBS=$${CHAOS_JOBS:-100} CHAOS_ACTS=$${CHAOS_ACTS:-120} CHAOS_ROUNDS=$${CHAOS_ROUNDS:-3} \
	  $(BIN)/python -m pytest tests/system/test_chaos.py

# What a list of 10,000 files takes of Redis and of the workers' memory.
growth: $(INSTALLED)
	GROWTH_FILES=10000 $(BIN)/python -m pytest -s tests/system/test_queue_growth.py

# What the image has in it, anew from PyPI; commit what comes of it.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
  --custom-compile-command 'make lock'
lock: $(INSTALLED)
	$(LOCK) pyproject.toml --output-file deploy/requirements.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(LOCK) - --output-file deploy/build.lock

# The stack in containers, on a real Docker daemon; needs root where none runs. COMPOSE='docker compose' has version 2 do it.
system: $(INSTALLED)
	$(BIN)/python -m pytest tests/system/test_compose.py --durations 0

bench: $(INSTALLED)
	cd tests && ../$(BIN)/python -m bench

# docs/pictures, of the running program.
pictures: $(INSTALLED)
	$(BIN)/pip install --quiet pyte
	cd tests && ../$(BIN)/python -m pictures

# What several hosts make of one file, on links that are held to a rate; needs root. Writes docs/scale.md.
scale: $(INSTALLED)
	cd tests && ../$(BIN)/python -m scale --report ../docs/scale.md

clean:
	rm -rf .venv build dist *.egg-info

$(INSTALLED): pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet --editable '.[embedded,dev]'
	touch $@
