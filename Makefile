# Everything runs in .venv, which is made when it is missing.
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: check lint types imports test bench clean

check: lint types imports test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

test: $(INSTALLED)
	$(BIN)/python -m pytest

bench: $(INSTALLED)
	cd tests && ../$(BIN)/python -m bench

clean:
	rm -rf .venv build dist *.egg-info

$(INSTALLED): pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet --editable '.[embedded,dev]'
	touch $@
