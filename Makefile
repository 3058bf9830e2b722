# Each target sets up what it needs: the first one creates .venv and installs into it.

PYTHON ?= python3.11
EXPERIMENT ?= stn-mnist
BIN := .venv/bin
RUN := $(BIN)/mlflow run . --env-manager local --experiment-name $(EXPERIMENT)

.PHONY: help setup train evaluate compare ui lint test browser

help:
	@echo "make train [CONV_LAYER=conv2d|coordconv2d] [EPOCHS=30]   train one network, tracked by MLflow"
	@echo "make evaluate [MODEL_URI=models:/stn-mnist@champion]     score a registered model again"
	@echo "make compare                                             the table of layers"
	@echo "make ui                                                  the MLflow UI, on loopback"
	@echo "make test                                                lint and tests"

setup: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

train: setup
	$(RUN) $(if $(CONV_LAYER),-P conv_layer=$(CONV_LAYER)) $(if $(EPOCHS),-P epochs=$(EPOCHS))

evaluate: setup
	$(RUN) -e evaluate $(if $(MODEL_URI),-P model_uri=$(MODEL_URI))

compare: setup
	$(RUN) -e compare

ui: setup
	$(BIN)/python -m pipeline ui --experiment $(EXPERIMENT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipeline

test: lint browser
	$(BIN)/python -m pytest

# The tests look at the MLflow UI in a real browser; where it can be neither found nor installed
# they say so and skip.
browser:
	@command -v chromium > /dev/null || test "$$(id -u)" -ne 0 || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver > /dev/null; } || true
