# Two commands do everything on a machine with Python 3.11 or newer, git and make:
#   make demo    install without torch, super-resolve a sample scene, say where the result is
#   make test    install everything, then lint, type-check and test
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/demo.stamp
	mkdir -p demo
	$(BIN)/georsr sr sample_data/town_rgb_2m.tif demo/town_x4.tif --overwrite
	$(BIN)/georsr eval demo/town_x4.tif sample_data/town_rgb_0.5m.tif --lr sample_data/town_rgb_2m.tif
	@echo "The super-resolved scene is demo/town_x4.tif (input: sample_data/town_rgb_2m.tif)"

test: .venv/test.stamp lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --max-worker-restart 0 --dist loadfile

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/demo.stamp: pyproject.toml requirements/light.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements/light.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/test.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/demo.stamp

clean:
	rm -rf .venv demo build *.egg-info
