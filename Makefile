# Everything a person does here, one word each: `make help`.
.DEFAULT_GOAL := help
.PHONY: help setup test reproduce slow readme docs clean

VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
CORPORA ?= ravdess,savee

# The first Python 3.11 to 3.13 there is, unless one is named.
SUITED  := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON  ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c '$(SUITED)' 2>/dev/null && echo $(p)))),python3)

# Tests see no corpus, no weights, no cache of an earlier run and no network: whatever tries to get out is refused at once.
TMP     := $(CURDIR)/.cache/test
NOWHERE := http://127.0.0.1:9
OFFLINE := env -u SER_RESULTS SER_DATA="$(TMP)/no-corpora" SER_CACHE="$(TMP)/features" TORCH_HOME="$(TMP)/torch" \
           HF_HOME="$(TMP)/hf" HF_HUB_OFFLINE=1 MPLBACKEND=Agg OMP_NUM_THREADS=1 \
           http_proxy=$(NOWHERE) https_proxy=$(NOWHERE) HTTP_PROXY=$(NOWHERE) HTTPS_PROXY=$(NOWHERE) \
           no_proxy=localhost,127.0.0.1 NO_PROXY=localhost,127.0.0.1
# nbdev_test knows no time limit: a cell that hangs is ended from outside, where the system can.
LIMIT   := $(if $(shell command -v timeout),timeout 900)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv and install the package with all that developing needs

$(STAMP): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c '$(SUITED)' 2>/dev/null || { echo "Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is not one" \
	  "($$($(PYTHON) --version 2>&1 | head -n 1)); name one, as in: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
	  "on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV); PyTorch is large, so this takes some minutes."
	@$(BIN)/python -m pip install -e '.[dev,onnx,app]'
	@touch $@

test: $(STAMP) ## library and notebooks in step, every notebook, every test (offline, about 10 minutes at most)
	@rm -rf "$(TMP)"
	@echo "Are library and notebooks in step?"
	@$(OFFLINE) $(BIN)/python -m pytest -q tests/test_sync.py
	@echo "Every notebook, but for its slow cells:"
	@$(OFFLINE) $(LIMIT) $(BIN)/nbdev_test --n_workers 2 --do_print --timing
	@echo "Every test:"
	@$(OFFLINE) $(LIMIT) $(BIN)/python -m pytest -rs -n 2 --dist loadfile --no-loadscope-reorder

reproduce: $(STAMP) ## the paper's experiment: on the embedded corpus, or at full size with DATA=DIR [CORPORA=ravdess,savee]
	@MPLBACKEND=Agg $(BIN)/ser_reproduce $(if $(DATA),--data "$(DATA)" --corpora $(CORPORA)) $(ARGS)

slow: $(STAMP) ## every notebook with its slow cells; DATA=DIR holds the corpora they need (hours)
	@$(if $(DATA),SER_DATA="$$(cd "$(DATA)" && pwd)") MPLBACKEND=Agg $(BIN)/nbdev_test --flags slow --n_workers 1 --do_print --timing

readme: $(STAMP) ## README.md from nbs/index.ipynb
	@$(BIN)/python -m nbconvert nbs/index.ipynb --config nbs/_readme.py --to markdown --output-dir . --output README

docs: $(STAMP) readme ## the documentation site, in _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo "make docs needs Quarto, which is not installed: see https://quarto.org/docs/get-started" >&2; exit 1; }
	@$(BIN)/nbdev_docs

clean: ## remove what was built; .venv, corpora and results stay
	@rm -rf build dist _docs _proc .cache/test .pytest_cache *.egg-info
	@find nbs ser_fastai tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
