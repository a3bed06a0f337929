# `make help` lists the targets. Set-up runs once: the stamps below lie in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DEMO_MODEL := examples/demo_model
DEMO := build/demo
CAPABILITIES ?= 8.6 8.9 12.0
QUANTIZED := $(foreach scheme,int8 int4 int8-qdq,$(DEMO)/variants/$(scheme)/weights.bin)
WORKERS ?= 3
SHARED_OUT := pytest --numprocesses $(WORKERS)
BY_FILES := --dist loadfile --no-loadscope-reorder
SAMPLE := examples/data/c4-sample-train.json.gz
UNSEEN := examples/data/c4-sample-validation.json.gz
EXPORTER := $(wildcard export/pointsman_export/*.py export/pointsman_export/*/*.py export/pointsman_export/*/*/*.py) $(wildcard runtime/pointsman/bundle/*.py)
PORT ?= 8000
TEXT ?= The <extra_id_0> walks in <extra_id_1> park.
export SENTENCE := $(value TEXT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev infill serve export calibrate compare engines test test-slow coverage bench bench-speed gpu-check check format lint types imports clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

infill: $(DEMO)/manifest.json ## export the demo model and fill a sentence (TEXT="...")
	$(BIN)/pointsman infill $(DEMO) "$$SENTENCE" --num-beams 4

serve: $(DEMO)/manifest.json ## serve the demo bundle at http://127.0.0.1:8000 (PORT=8000)
	$(BIN)/pointsman serve $(DEMO) --port $(PORT) --with-routing

export: $(VENV)/.packages ## export a checkpoint: MODEL=<folder or hub id> OUT=<bundle>
	@test -n '$(MODEL)' -a -n '$(OUT)' || { echo 'say which: make export MODEL=<folder or hub id> OUT=<bundle>' >&2; exit 2; }
	$(BIN)/pointsman-export bundle '$(MODEL)' -o '$(OUT)'

calibrate: C4 ?= $(SAMPLE)
calibrate: $(DEMO)/manifest.json ## quantize the demo bundle in every scheme for a small sample, or C4="<files>"
	$(BIN)/pointsman-calib quantize $(DEMO) --scheme int8 --corpus $(C4) --force
	$(BIN)/pointsman-calib quantize $(DEMO) --scheme int4 --corpus $(C4) --force
	$(BIN)/pointsman-calib quantize $(DEMO) --scheme int8-qdq --corpus $(C4) --force

compare: C4 ?= $(UNSEEN)
compare: LIMITS ?= --max-loss-increase 1.5 --min-agreement 95
compare: $(QUANTIZED) ## compare the demo bundle's variants on a small sample, or C4="<files>"; writes build/comparison.html
	$(BIN)/pointsman-calib compare $(DEMO) --corpus $(C4) --report build/comparison.html $(LIMITS)

engines: $(DEMO)/manifest.json $(VENV)/.engines ## build the demo's TensorRT-RTX plans, no GPU needed (CAPABILITIES="8.9")
	$(BIN)/pointsman-export engines $(DEMO) --flavour tensorrt-rtx --compute-capability $(CAPABILITIES) --force

test: $(VENV)/.dev ## run the fast tests, three files at a time (ARGS="-k beam", WORKERS=4)
	$(BIN)/python -m $(SHARED_OUT) $(BY_FILES) $(ARGS)

test-slow: $(VENV)/.dev $(VENV)/.ray ## run the heavy tests
	$(BIN)/python -m $(SHARED_OUT) --dist worksteal -m slow $(ARGS)

coverage: $(VENV)/.dev ## run the fast tests, and report the branches that they take
	rm -rf build/coverage
	$(BIN)/python -m coverage run -m $(SHARED_OUT) $(BY_FILES) $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# A promise that is not kept does not keep the others from being measured.
measure = $(BIN)/python benchmarks/$(1).py $(2) || failed=1
measure_speed = $(call measure,decode,$(DECODE)); $(call measure,products); $(call measure,growth,$(GROWTH)); $(call measure,render)

bench: EXPERTS ?= 32
bench: $(VENV)/.dev ## measure at real sizes, and render the README's table; C4="<files>" calibrates on them
	@failed=0; $(measure_speed); \
	$(call measure,export_memory); \
	$(call measure,full_width); \
	$(call measure,calib_memory,$(if $(C4),--corpus $(C4))); \
	$(call measure,calibration); \
	$(call measure,compare_memory); \
	$(call measure,engine_build); \
	$(call measure,serving); \
	$(call measure,large,--experts $(EXPERTS)); \
	$(call measure,render); \
	exit $$failed

bench-speed: $(VENV)/.dev ## of that, decode speed and growth (DECODE="--rounds 3" GROWTH="--rounds 3")
	@failed=0; $(measure_speed); exit $$failed

gpu-check: $(VENV)/.dev ## on an NVIDIA GPU: run, check and measure every engine that can run (eight minutes)
	$(BIN)/python benchmarks/gpu.py

check: format lint types imports test ## what continuous integration runs: format, lint, types, imports, tests

format: $(VENV)/.dev
	$(BIN)/ruff format --check

lint: $(VENV)/.dev
	$(BIN)/ruff check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

setup: $(VENV)/.packages ## make .venv with runtime, exporter and calibrator

setup-dev: $(VENV)/.dev ## make .venv with the tools for tests and checks too

clean: ## remove .venv and build
	rm -rf $(VENV) build

$(DEMO)/manifest.json: $(VENV)/.packages $(wildcard $(DEMO_MODEL)/*) $(EXPORTER)
	$(BIN)/pointsman-export bundle $(DEMO_MODEL) -o $(DEMO) --force --discard

# Quantizing rewrites the manifest, so what it makes is compared with the weights that it reads.
$(QUANTIZED): $(DEMO)/variants/%/weights.bin: $(DEMO)/variants/float32/weights.bin
	$(BIN)/pointsman-calib quantize $(DEMO) --scheme $* --corpus $(SAMPLE) --force

$(DEMO)/variants/float32/weights.bin: $(DEMO)/manifest.json
	@:

$(VENV)/.packages: $(VENV)/.python pyproject.toml constraints.txt
	@echo 'Installing PyTorch and the rest into $(VENV): a minute or more, and 1.2 GB or more, without a sign of life.'
	$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[cpu,export,calib,serve,client]'
	touch $@

$(VENV)/.engines: $(VENV)/.packages
	$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[tensorrt-rtx]'
	touch $@

$(VENV)/.dev: $(VENV)/.engines
	$(PIP_INSTALL) --group dev
	touch $@

# Ray takes half a gigabyte, and only the slow tests run it.
$(VENV)/.ray: $(VENV)/.dev
	$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[ray]'
	touch $@

# Dependency groups need pip 25.1, which is newer than what comes with Python 3.11.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Pointsman needs Python 3.11 or newer: make PYTHON=python3.11 ...' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	touch $@
