# Each target sets up what it needs: the first one creates .venv and installs into it.

PYTHON ?= python3.11
EXPERIMENT ?= stn-mnist
BIN := .venv/bin
# an unreachable tracking server is reported within seconds instead of minutes
export MLFLOW_HTTP_REQUEST_MAX_RETRIES ?= 3

RUN := $(BIN)/mlflow run . --env-manager local --experiment-name $(EXPERIMENT)
# any parameter of docs/parameters.md: make train architecture=stn-sl1 dataset=rotated
SMALL := $(filter $(addsuffix %,a b c d e f g h i j k l m n o p q r s t u v w x y z),$(MAKEOVERRIDES))
# and those that the help writes in capitals; each command refuses parameters that are not its own
LARGE := $(filter-out $(SMALL),$(MAKEOVERRIDES))
small = $(if $($(1)),$(2)=$($(1)))
WORDS := $(SMALL) $(call small,CONV_LAYER,conv_layer) $(call small,EPOCHS,epochs) \
  $(call small,RUNS,runs) $(call small,PRESET,preset) $(call small,WORKERS,workers) \
  $(call small,EXECUTOR,executor) $(call small,MODEL_URI,model_uri) $(call small,BY,by) \
  $(call small,MARGIN,margin)
GIVEN := $(addprefix -P ,$(WORDS))
# a word in capitals that no target reads would be ignored
KNOWN := AUTH BIN BY COMMAND CONV_LAYER EPOCHS EXECUTOR EXPERIMENT FAULT FOLDER HOST MARGIN MODEL_URI \
  PORT PRESET PYTHON QUICK RAY ROUNDS RUNS STORE WORKERS
UNKNOWN := $(filter-out MLFLOW_% PYTEST_% $(addsuffix =%,$(KNOWN)),$(LARGE))
$(if $(UNKNOWN),$(error unknown: $(UNKNOWN); write parameters in small letters, and \
  environment variables before make))

.PHONY: help setup lock hooks store train study evaluate compare ui server lint test test-slow \
  coverage test-latest test-lowest browser postgres audit faults bench calibration

help:
	@echo "make train [CONV_LAYER=coordconv2d] [EPOCHS=30]         train one network, tracked by MLflow"
	@echo "make study [RUNS=5] [EPOCHS=30] [PRESET=…] [WORKERS=2]   train runs of each layer, and compare them"
	@echo "    until=decided [RUNS=20]                              … until each pair of layers has its verdict"
	@echo "    EXECUTOR=ray                                         … on Ray, which \`make setup RAY=1\` installs"
	@echo "    these take any parameter: make train architecture=stn-sl1 dataset=rotated iterations=300"
	@echo "make evaluate [MODEL_URI=models:/stn-mnist@champion]     score a registered model again"
	@echo "make compare [BY=conv_layer] [MARGIN=0.1]                compare the runs there are"
	@echo "make ui                                                  the MLflow UI, on loopback"
	@echo "make server [HOST=127.0.0.1] [PORT=5000] [AUTH=1]        a tracking server on PostgreSQL, to share"
	@echo "make bench [QUICK=1]                                     speed, beside the usual loop"
	@echo "make calibration                                         how often a comparison's verdicts are wrong"
	@echo "make test                                                lint and tests"
	@echo "make test-slow                                           the slower tests"
	@echo "make test-latest, make test-lowest                       the tests with the newest or the lowest versions"
	@echo "make coverage                                            which lines of pipeline/ no test reaches"
	@echo "make hooks                                               lint before each commit"
	@echo "make faults [ROUNDS=20] [FAULT=worker]                   what is lost when a training or a study is disturbed"
	@echo "make audit                                               known vulnerabilities of the locked versions"
	@echo "make lock                                                renew the locked versions"

setup: .venv/installed $(if $(RAY),.venv/ray)

# uv installs the lock faster than pip; the newest uv is replaced by the locked one
.venv/installed: requirements-dev.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements-dev.lock
	touch $@

# optional: what `make study EXECUTOR=ray` needs, and the tests of it
.venv/ray: requirements-ray.lock .venv/installed
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-ray.lock
	touch $@

# conda.yaml repeats requirements.lock without its hashes, as MLflow reads no file that it names
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: setup
	$(COMPILE) requirements.txt --output-file requirements.lock
	$(COMPILE) requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock
	$(COMPILE) requirements-ray.txt --constraints requirements-dev.lock --output-file requirements-ray.lock
	{ sed '/^  - pip:/q' conda.yaml; \
	  sed -nE 's/^([a-z0-9].*[^ \\]) *\\?$$/      - "\1"/p' requirements.lock; } > conda.yaml.new
	mv conda.yaml.new conda.yaml

# MLflow breaks a store that several processes create at once, so `mlflow run` must find one
store: setup
	@test -s mlflow.db || $(BIN)/python -m pipeline store

train: store
	$(RUN) $(if $(filter conv_layer=% preset=%,$(WORDS)),,-P conv_layer=coordconv2d) $(GIVEN)

study: store
	$(RUN) -e study $(GIVEN)

evaluate: setup
	$(RUN) -e evaluate $(GIVEN)

compare: setup
	$(RUN) -e compare $(GIVEN)

ui: setup
	$(BIN)/python -m pipeline ui --experiment $(EXPERIMENT)

# PostgreSQL and `mlflow server`, until Ctrl-C; see docs/server.md
server: setup
	$(BIN)/python -m server $(if $(FOLDER),--folder $(FOLDER)) $(if $(HOST),--host $(HOST)) \
	  $(if $(PORT),--port $(PORT)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(AUTH),--auth)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# two processes, a file of tests in each; in their order, as those with few tests take longest
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint .venv/ray
	$(BIN)/python $(PYTEST)

# a third slower than `make test`; commands that the tests start are counted as well
coverage: setup .venv/ray
	$(BIN)/python $(PYTEST) --cov --cov-report=term-missing:skip-covered

hooks: setup
	$(BIN)/pre-commit install

test-slow: setup .venv/ray
	$(BIN)/python -m pytest -m slow

# environments of their own, from the open ranges and not from the lock
test-latest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-latest
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-latest \
	  -r requirements-dev.txt -r requirements-ray.txt
	.venv-latest/bin/python $(PYTEST)

test-lowest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-lowest \
	  --resolution lowest-direct -r requirements-dev.txt
	.venv-lowest/bin/python $(PYTEST) tests/end_to_end/test_main_job.py tests/test_project.py \
	  tests/tracking tests/training/test_loop.py

# A round of every fault takes half an hour, and 20 rounds the night; results are added up. FAULT,
# COMMAND and STORE choose some of it.
faults: setup
	$(BIN)/python -m tests.faults --rounds $(or $(ROUNDS),20) $(FAULT) \
	  $(if $(COMMAND),--command $(COMMAND)) $(if $(STORE),--store $(STORE))

# uvx, because pip-audit is no part of the project: it only reads the lock. --strict, because a
# package that its index does not know would otherwise count as sound.
audit: setup
	$(BIN)/uvx pip-audit@2.10.1 --strict --disable-pip --require-hashes --progress-spinner off \
	  --requirement requirements-dev.lock

bench: setup
	$(BIN)/python -m benchmarks.throughput $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.growth)

calibration: setup
	nice -n 10 $(BIN)/python -m benchmarks.calibration

# What the tests that look at pages need, on Debian and as root; without it they say so and skip.
browser:
	command -v chromedriver > /dev/null || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver > /dev/null; }

# What `make server` and its tests need, on Debian and as root; the tests say so and skip without it.
postgres:
	command -v pg_ctl > /dev/null || ls /usr/lib/postgresql/*/bin/pg_ctl > /dev/null 2>&1 || \
	  { apt-get update -qq && apt-get install -y -qq postgresql > /dev/null; }
