PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check

.PHONY: setup demo test test-all coverage test-gpu test-containers lint params reference confirm-stages images image-cpu \
	image-gpu lock upgrade

# Installs the versions of dev.lock and checks their checksums. Only torch has no checksum, because pip's index decides
# whether it is a CUDA build, which needs further packages. `pip check` fails if dev.lock is incomplete.
setup: .venv/installed

.venv/installed: pyproject.toml dev.lock | $(BIN)/python
	@echo "Installing the packages of dev.lock into .venv; this takes 2 to 3 minutes."
	sed -n '/^setuptools==/,/[^\\]$$/p' dev.lock > .venv/setuptools.lock
	$(PIP) install --no-deps --require-hashes -r .venv/setuptools.lock
	$(PIP) install --no-deps --require-hashes --no-build-isolation --use-pep517 -r dev.lock
	$(PIP) install "$$(grep -om1 'torch==[^"]*' pyproject.toml)"
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/pip --disable-pip-version-check check
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Runs the whole flow on this machine, from generated videos to two registered models.
demo: setup
	$(BIN)/slowfast run demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

PYTEST_OPTIONS ?=

# Uses two processes with one thread each. The tests of a file run in one process because they share expensive fixtures.
# Folders that mostly wait for Ray and KFP come first, so that both processes finish at about the same time.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS) \
		tests/training tests/pipelines tests

test-all: lint
	$(BIN)/pytest -q -m 'not gpu and not containers'

# Measures line and branch coverage, including subprocesses; the report is htmlcov/index.html.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q $(PYTEST_OPTIONS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered

# Writes params.yaml, the resolved recipe of the DVC pipeline.
params: setup
	$(BIN)/slowfast show demo > params.yaml

# Writes docs/recipe-reference.md, the page of all recipe keys.
reference: setup
	$(BIN)/python -m slowfast_core.recipe.reference > docs/recipe-reference.md

# Records the code behind each stage's results, and the versions of the stages (docs/reproducing.md).
confirm-stages: setup
	$(BIN)/python tests/helpers/stage_code.py

# Builds the container images (docs/images.md) and runs `slowfast doctor` in each.
images: image-cpu image-gpu

image-cpu image-gpu: image-%:
	infra/images/build $*

# Pins the packages of `setup` and the images, with checksums. `lock` follows a change of pyproject.toml and keeps all
# versions that still fit; `upgrade` takes the newest versions.
lock upgrade: $(BIN)/python
	$(PIP) install 'uv>=0.9'
	PATH="$(CURDIR)/$(BIN):$$PATH" infra/images/lock $(if $(filter upgrade,$@),--upgrade)

# Needs a GPU that torch can use.
test-gpu: setup
	$(BIN)/pytest -q -m gpu

test-containers: setup image-cpu
	$(BIN)/pytest -q -m containers
