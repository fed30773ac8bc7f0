# These commands need Python 3.11 or newer, git and make:
#   make demo    install without torch, super-resolve a sample scene, print how to look at it
#   make test    install everything, then lint, type-check and test
#   make fast    lint and the quick tests: no QGIS, cluster, attack, fault or documentation tests
#   make coverage  the tests again, with the statements that they do not reach
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test fast coverage lint clean

demo: .venv/demo.stamp
	mkdir -p demo
	$(BIN)/georsr sr sample_data/town_rgb_2m.tif demo/town_x4.tif --overwrite
	$(BIN)/georsr eval demo/town_x4.tif sample_data/town_rgb_0.5m.tif --lr sample_data/town_rgb_2m.tif
	@echo "The super-resolved scene is demo/town_x4.tif. Look at it:"
	@echo "$(BIN)/georsr view demo/town_x4.tif sample_data/town_rgb_2m.tif"

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --max-worker-restart 0 --dist loadfile
LONG := attacks distributed docs faults qgis test_packaging.py

test: .venv/test.stamp lint
	$(PYTEST)

coverage: .venv/test.stamp
	$(PYTEST) --cov --cov-report=term:skip-covered

fast: .venv/test.stamp lint
	$(PYTEST) -m "not slow" $(LONG:%=--ignore tests/%)

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
