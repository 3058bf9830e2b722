# Each target sets up what it needs: the first one creates .venv and installs into it.

PYTHON ?= python3.11
EXPERIMENT ?= stn-mnist
CONV_LAYER ?= coordconv2d
BIN := .venv/bin
# an unreachable tracking server is reported within seconds instead of minutes
export MLFLOW_HTTP_REQUEST_MAX_RETRIES ?= 3

RUN := $(BIN)/mlflow run . --env-manager local --experiment-name $(EXPERIMENT)
# any parameter of the README's tables: make train architecture=stn-sl1 dataset=rotated
GIVEN := $(addprefix -P ,$(filter $(addsuffix %,a b c d e f g h i j k l m n o p q r s t u v w x y z),\
  $(MAKEOVERRIDES)))

.PHONY: help setup store train study evaluate compare ui lint test test-slow browser bench

help:
	@echo "make train [CONV_LAYER=coordconv2d] [EPOCHS=30]         train one network, tracked by MLflow"
	@echo "make study [RUNS=5] [EPOCHS=30] [PRESET=…] [WORKERS=2]   train runs of each layer, and compare them"
	@echo "    these take any parameter: make train architecture=stn-sl1 dataset=rotated iterations=300"
	@echo "make evaluate [MODEL_URI=models:/stn-mnist@champion]     score a registered model again"
	@echo "make compare [BY=conv_layer] [MARGIN=0.1]                compare the runs there are"
	@echo "make ui                                                  the MLflow UI, on loopback"
	@echo "make bench [QUICK=1]                                     speed, beside the usual loop"
	@echo "make test                                                lint and tests"
	@echo "make test-slow                                           the slower tests"

setup: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# MLflow breaks a store that several processes create at once, so `mlflow run` must find one
store: setup
	@test -s mlflow.db || $(BIN)/python -m pipeline store

train: store
	$(RUN) $(if $(conv_layer)$(preset),,-P conv_layer=$(CONV_LAYER)) $(if $(EPOCHS),-P epochs=$(EPOCHS)) $(GIVEN)

study: store
	$(RUN) -e study $(if $(PRESET),-P preset=$(PRESET)) $(if $(RUNS),-P runs=$(RUNS)) \
	  $(if $(EPOCHS),-P epochs=$(EPOCHS)) $(if $(WORKERS),-P workers=$(WORKERS)) $(GIVEN)

evaluate: setup
	$(RUN) -e evaluate $(if $(MODEL_URI),-P model_uri=$(MODEL_URI)) $(GIVEN)

compare: setup
	$(RUN) -e compare $(if $(BY),-P by=$(BY)) $(if $(MARGIN),-P margin=$(MARGIN)) $(GIVEN)

ui: setup
	$(BIN)/python -m pipeline ui --experiment $(EXPERIMENT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipeline

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

bench: setup
	$(BIN)/python -m benchmarks.throughput $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.growth)

# What the tests that look at pages need, on Debian and as root; without it they say so and skip.
browser:
	command -v chromedriver > /dev/null || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver > /dev/null; }
