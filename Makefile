PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check

.PHONY: setup demo test test-all coverage test-gpu test-containers lint params confirm-stages images image-cpu \
	image-gpu lock upgrade

# Installs what dev.lock pins and refuses any file with another checksum. Only torch goes by its version: whether its build
# is for CUDA, and brings CUDA's packages, is up to where pip finds it. `pip check` fails if the lock leaves out anything.
setup: .venv/installed

.venv/installed: pyproject.toml dev.lock | $(BIN)/python
	@echo "Installing what dev.lock pins into .venv; this takes 2 to 3 minutes."
	sed -n '/^setuptools==/,/[^\\]$$/p' dev.lock > .venv/setuptools.lock
	$(PIP) install --no-deps --require-hashes -r .venv/setuptools.lock
	$(PIP) install --no-deps --require-hashes --no-build-isolation --use-pep517 -r dev.lock
	$(PIP) install "$$(grep -om1 'torch==[^"]*' pyproject.toml)"
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/pip --disable-pip-version-check check
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

# The whole flow on this machine, from generated videos to two registered models.
demo: setup
	$(BIN)/slowfast run demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

PYTEST_OPTIONS ?=

# In two processes, of a thread each, and file by file, since the tests of a file share what takes long to make. The files
# that mostly wait for Ray and for KFP go first, so that none of them begins when the other process has finished.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS) \
		tests/training tests/pipelines tests

test-all: lint
	$(BIN)/pytest -q -m 'not gpu and not containers'

# Line and branch coverage of the tests and of the processes that they start; the report is in htmlcov/index.html.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q $(PYTEST_OPTIONS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered

# params.yaml is the active recipe of the DVC pipeline, resolved.
params: setup
	$(BIN)/slowfast show demo > params.yaml

# Records the code behind each stage's results, and the versions of the stages (docs/reproducing.md).
confirm-stages: setup
	$(BIN)/python tests/stage_code.py

# The container images (docs/images.md), each tried by `slowfast doctor`.
images: image-cpu image-gpu

image-cpu image-gpu: image-%:
	infra/images/build $*

# Pins anew what `setup` and the images install, with checksums: `lock` after a change of pyproject.toml, and moves no
# other version; `upgrade` takes the newest of everything.
lock upgrade: $(BIN)/python
	$(PIP) install 'uv>=0.9'
	PATH="$(CURDIR)/$(BIN):$$PATH" infra/images/lock $(if $(filter upgrade,$@),--upgrade)

# Where there is a GPU that torch can use.
test-gpu: setup
	$(BIN)/pytest -q -m gpu

test-containers: setup image-cpu
	$(BIN)/pytest -q -m containers
