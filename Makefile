# wcx: every target sets up what it needs. `make` alone prints the list.

.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

# Your own environment instead of .venv:  make demo PYTHON=python
PYTHON := .venv/bin/python
PYTHON3 := python3
STAMP := .venv/.setup-stamp
READY := $(if $(filter .venv/bin/python,$(PYTHON)),$(STAMP))

# What a runner is asked for; what is left empty is the runner's own default (conf/).
DATASETS :=
MODELS :=
METHODS :=
CONTRASTS :=
LIMIT :=
RECIPE :=
RESULTS :=
ARGS :=
WORKERS := 2

empty :=
space := $(empty) $(empty)
comma := ,
commas = $(subst $(space),$(comma),$(strip $(1)))
quote = '$(subst ','\'',$(1))'
list = $(if $(strip $(2)),$(call quote,$(1)=[$(call commas,$(2))]))
# Of a variable by its name: every letter of its value as it was typed, a $ and a # too.
single = $(if $(strip $(value $(2))),$(call quote,$(1)=$(value $(2))))

RUN = $(call single,limit,LIMIT) $(call single,paths.results_dir,RESULTS) $(ARGS)
TABLE = $(call list,datasets,$(DATASETS)) $(call list,models,$(MODELS)) $(call list,methods,$(METHODS)) \
	$(call list,contrasts,$(CONTRASTS)) $(call single,recipe,RECIPE) $(RUN)

# Each experiment is a target: an experiment is found by its file.
EXPERIMENTS := $(filter-out gallery photo,$(notdir $(basename $(wildcard conf/experiment/*.yaml))))

.PHONY: help
help: ## print this list
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Experiments over lists (wcx <name> 'datasets=[...]' 'models=[...]' does the same):"
	@awk 'FNR == 2 { name = FILENAME; gsub(/.*\/|\.yaml/, "", name); sub(/^# /, ""); printf "  make %-19s%s\n", name, $$0 }' \
		$(foreach name,$(EXPERIMENTS),conf/experiment/$(name).yaml)
	@echo
	@echo 'Choices, all optional:  DATASETS="cub cars" MODELS="vgg16 alexnet" METHODS="gradcam" CONTRASTS="original weighted"'
	@echo '                        LIMIT=100 RECIPE=head RESULTS=folder ARGS="any=hydra override=too" PYTHON=python'

.PHONY: setup
setup: $(READY) ## make .venv and install wcx into it (once; again when pyproject.toml changes)
	@echo "$(PYTHON) is ready."

$(STAMP): pyproject.toml
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "make: wcx needs Python 3.11 or newer; name one: make PYTHON3=python3.12" >&2; exit 1; }
	@echo "Setting up .venv (PyTorch is large: some minutes, about 5 GB) ..."
	@$(PYTHON3) -m venv .venv || { echo "make: no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: $(READY) ## explain drawn birds in a minute or two: train a small network, then a small Table 1
	@$(PYTHON) -m wcx.cli demo $(RUN)

.PHONY: app
app: $(READY) ## ask "why this class, but not that one?" on a page of this machine (ARGS="model=resnet18 port=8080")
	@$(PYTHON) -c 'import gradio' 2>/dev/null \
		|| $(PYTHON) -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[app]'
	@$(PYTHON) -m wcx.cli app $(ARGS)

.PHONY: test
test: $(READY) ## run the tests in WORKERS processes (those on real images need ../shared or WCX_SHARED)
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# Heavy optional libraries stay out of .venv.
EXTRAS := dev,export,ray,launchers,peers,timm,transformers,clip,app
EXTRAS_STAMP := .venv-extras/.setup-stamp

$(EXTRAS_STAMP): pyproject.toml
	@echo "Setting up .venv-extras ..."
	@$(PYTHON3) -m venv .venv-extras
	@.venv-extras/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[$(EXTRAS)]'
	@touch $@

# lxt wants transformers < 5, the other extras the newest.
LXT_STAMP := .venv-lxt/.setup-stamp

$(LXT_STAMP): pyproject.toml
	@echo "Setting up .venv-lxt ..."
	@$(PYTHON3) -m venv .venv-lxt
	@.venv-lxt/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[dev]' \
		'lxt==2.1' 'transformers<5'
	@touch $@

# LRP under both versions of zennit that there are: each alone in a folder before the environment's own. 1.0.0 asks for Python 3.11.11,
# and is pure Python: it is tested on older ones, too.
ZENNIT := .venv-zennit/0.5.1 .venv-zennit/1.0.0

$(ZENNIT): .venv-zennit/%: $(EXTRAS_STAMP)
	@.venv-extras/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --no-deps \
		--ignore-requires-python --target $@.part 'zennit==$*' && mv $@.part $@

.PHONY: test-extras
test-extras: $(EXTRAS_STAMP) $(LXT_STAMP) $(ZENNIT) ## run the tests of heavy optional libraries, which get environments of their own
	@.venv-extras/bin/python -m pytest tests/extras $(ARGS)
	@.venv-lxt/bin/python -m pytest tests/extras/test_lxt.py $(ARGS)
	@for zennit in $(ZENNIT); do echo "LRP under $$zennit:"; \
		PYTHONPATH=$$zennit .venv-extras/bin/python -m pytest tests/methods/test_lrp*.py tests/methods/test_attnlrp.py \
			tests/extras/test_bridges.py $(ARGS) || exit 1; done

.PHONY: lint
lint: $(READY) ## check style and formatting
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

.PHONY: types
types: $(READY) ## check the types
	@$(PYTHON) -m mypy

.PHONY: finetune
finetune: scripts/finetune.py $(READY) ## fine-tune MODELS on DATASETS by RECIPE; what is finished is skipped
	@test -n "$(strip $(DATASETS))" -a -n "$(strip $(MODELS))" \
		|| { echo 'make finetune: say what, e.g. DATASETS="cub cars" MODELS=alexnet RECIPE=head' >&2; exit 1; }
	@$(PYTHON) scripts/finetune.py --multirun $(call quote,dataset=$(call commas,$(DATASETS))) $(call quote,model=$(call commas,$(MODELS))) \
		$(call single,recipe,RECIPE) $(call single,paths.results_dir,RESULTS) $(ARGS)

.PHONY: table1
table1: scripts/table1.py $(READY) ## Table 1: masking, for DATASETS x MODELS x METHODS x CONTRASTS
	@$(PYTHON) scripts/table1.py $(TABLE)

.PHONY: fig3
fig3: scripts/fig3.py $(READY) ## Fig. 3: gradient-sign perturbation of MODELS
	@$(PYTHON) scripts/fig3.py $(call list,models,$(MODELS)) $(call list,methods,$(METHODS)) $(call list,contrasts,$(CONTRASTS)) $(RUN)

.PHONY: $(EXPERIMENTS)
$(EXPERIMENTS): $(READY)
	@$(PYTHON) -m wcx.cli $@ $(call list,datasets,$(DATASETS)) $(call list,models,$(MODELS)) $(call list,methods,$(METHODS)) \
		$(call list,contrasts,$(CONTRASTS)) $(RUN)

.PHONY: gallery
gallery: scripts/gallery.py $(READY) ## Figs. 1, 4 and 5: heatmaps of chosen images
	@$(PYTHON) scripts/gallery.py $(call list,datasets,$(DATASETS)) $(call list,models,$(MODELS)) \
		$(call list,methods,$(METHODS)) $(call list,contrasts,$(CONTRASTS)) $(RUN)

.PHONY: report
report: scripts/report.py $(READY) ## all results there are, in one HTML file
	@$(PYTHON) scripts/report.py $(call single,paths.results_dir,RESULTS) $(ARGS)

.PHONY: verify
verify: scripts/verify.py $(READY) ## check the paper's propositions in numbers
	@$(PYTHON) scripts/verify.py $(call single,paths.results_dir,RESULTS) $(ARGS)

.PHONY: bench
bench: scripts/bench.py $(READY) ## time and count network passes against the bare minimum
	@$(PYTHON) scripts/bench.py $(call list,datasets,$(DATASETS)) $(call list,models,$(MODELS)) $(call list,methods,$(METHODS)) \
		$(call list,contrasts,$(CONTRASTS)) $(call single,images,LIMIT) $(call single,paths.results_dir,RESULTS) $(ARGS)

.PHONY: check-gpu
check-gpu: $(READY) ## compare a GPU with the CPU, and time it (8 minutes; CHECK_GPU_DATA=folder with data/ and weights/)
	@$(PYTHON) -m wcx.cli check_gpu $(if $(CHECK_GPU_DATA),$(call quote,paths.data_dir=$(CHECK_GPU_DATA)/data) \
		$(call quote,paths.weights_dir=$(CHECK_GPU_DATA)/weights)) $(call single,paths.results_dir,RESULTS) $(ARGS)

.PHONY: test-browser
test-browser: tests/browser/test_report.py tests/browser/test_app.py $(READY) ## drive the report and the app in headless Chromium (installed if there is none)
	@$(PYTHON) -c 'import playwright, gradio' 2>/dev/null \
		|| $(PYTHON) -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[browser,app]'
	@$(PYTHON) tests/browser/chromium.py >/dev/null 2>&1 || $(PYTHON) -m playwright install chromium >/dev/null 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
		|| $(PYTHON) tests/browser/chromium.py
	@$(PYTHON) -m pytest tests/browser $(ARGS)

# A runner that is not there: one clear line, before any set-up.
scripts/%.py tests/browser/%.py:
	@echo "make: this experiment is not here yet; it comes with $@." >&2; exit 1

.PHONY: docs
docs: $(READY) ## build the documentation site into build/site (its pictures too), and run the notebook
	@$(PYTHON) -c 'import mkdocs, mkdocstrings, material, jupytext, nbclient' 2>/dev/null \
		|| $(PYTHON) -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --editable '.[docs]'
	@$(PYTHON) -m mkdocs build --strict
	@$(PYTHON) -m jupytext --quiet --to ipynb docs/notebook.py --output build/notebook.ipynb
	@$(PYTHON) -m jupyter execute --inplace build/notebook.ipynb
	@echo "site: build/site/index.html, notebook: build/notebook.ipynb"

.PHONY: clean
clean: ## remove caches and Hydra's stray outputs (keeps environments, data, checkpoints, results)
	@rm -rf outputs multirun build dist .pytest_cache .ruff_cache *.egg-info
	@find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +
