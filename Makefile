# Development commands. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup test reproduce slow readme docs clean

VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
CORPORA ?= ravdess,savee

# The first installed Python 3.11 to 3.13, unless PYTHON is given.
CHECK   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
NAMES   := python3 python3.13 python3.12 python3.11
PYTHON  ?= $(or $(firstword $(foreach p,$(NAMES),$(shell $(p) -c '$(CHECK)' 2>/dev/null && echo $(p)))),python3)

# Tests run without corpora, downloaded weights, earlier caches and internet access: the proxy refuses connections.
TMP     := $(CURDIR)/.cache/test
PROXY   := http://127.0.0.1:9
OFFLINE := env -u SER_RESULTS SER_DATA="$(TMP)/no-corpora" SER_CACHE="$(TMP)/features" TORCH_HOME="$(TMP)/torch" \
           HF_HOME="$(TMP)/hf" HF_HUB_OFFLINE=1 MPLBACKEND=Agg OMP_NUM_THREADS=1 \
           http_proxy=$(PROXY) https_proxy=$(PROXY) HTTP_PROXY=$(PROXY) HTTPS_PROXY=$(PROXY) \
           no_proxy=localhost,127.0.0.1 NO_PROXY=localhost,127.0.0.1
# nbdev_test has no time limit, so `timeout`, if it is installed, ends a cell that hangs.
LIMIT   := $(if $(shell command -v timeout),timeout 900)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## create .venv and install the package with all development requirements

$(STAMP): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c '$(CHECK)' 2>/dev/null || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13" \
	  "($$($(PYTHON) --version 2>&1 | head -n 1)):" \
	  "use make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot create a virtual environment:" \
	  "on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV). PyTorch is large, so this takes some minutes."
	@$(BIN)/python -m pip install -e '.[dev,onnx,app,speech,vision,tune,opensmile]'
	@touch $@

test: $(STAMP) ## compare modules with notebooks, run all notebooks and all tests (offline, up to 10 minutes)
	@rm -rf "$(TMP)"
	@echo "Comparing modules with notebooks"
	@$(OFFLINE) $(BIN)/python -m pytest -q tests/test_sync.py
	@echo "Running all notebooks without their slow cells"
	@$(OFFLINE) $(LIMIT) $(BIN)/nbdev_test --n_workers 2 --do_print --timing
	@echo "Running all tests"
	@$(OFFLINE) $(LIMIT) $(BIN)/python -m pytest -rs -n 2 --dist loadfile --no-loadscope-reorder

reproduce: $(STAMP) ## run the paper's experiment on a synthetic corpus, or on DATA=DIR [CORPORA=ravdess,savee]
	@MPLBACKEND=Agg $(BIN)/ser_reproduce $(if $(DATA),--data "$(DATA)" --corpora $(CORPORA)) $(ARGS)

slow: $(STAMP) ## run all notebooks with their slow cells on the corpora in DATA=DIR (hours)
	@$(if $(DATA),SER_DATA="$$(cd "$(DATA)" && pwd)") MPLBACKEND=Agg $(BIN)/nbdev_test --flags slow --n_workers 1 --do_print --timing

readme: $(STAMP) ## generate README.md from nbs/index.ipynb
	@$(BIN)/python -m nbconvert nbs/index.ipynb --config nbs/_readme.py --to markdown --output-dir . --output README

docs: $(STAMP) readme ## build the documentation site in _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo "Quarto is not installed: see https://quarto.org/docs/get-started" >&2; exit 1; }
	@$(BIN)/nbdev_docs

clean: ## remove built files; keep .venv, corpora and results
	@rm -rf build dist _docs _proc .cache/test .pytest_cache *.egg-info
	@find nbs ser_fastai tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
