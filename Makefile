PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all test-gpu test-containers lint params confirm-stages images image-cpu image-gpu lock

# PyTorchVideo, with which tests compare, comes without what only its data sets need.
setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps pytorchvideo==0.1.5
	touch $@

# The whole flow on this machine, from generated videos to two registered models.
demo: setup
	$(BIN)/slowfast run demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

test: lint
	$(BIN)/pytest -q

test-all: lint
	$(BIN)/pytest -q -m 'not gpu and not containers'

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

# What the images install, pinned with checksums.
lock: setup
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	PATH="$(CURDIR)/$(BIN):$$PATH" infra/images/lock

# Where there is a GPU that torch can use.
test-gpu: setup
	$(BIN)/pytest -q -m gpu

test-containers: setup image-cpu
	$(BIN)/pytest -q -m containers
