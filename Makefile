# Every target installs what it needs into .venv first; nothing but Python 3.11+ has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Carries CLIP's vocabulary for the tokenizer's tests. Nothing of it is imported, so the torchvision and timm that it
# asks for, and an extra could not leave out, stay away.
CLIP_VOCABULARY := open-clip-torch==3.3.0
# A process per core, four at most: each takes up to 2 GB
TESTS := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: demo test check full-size bench samplers clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "latentrt needs Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=")'
	@echo "installing into $(VENV) (torch alone is some hundred MB; once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(CLIP_VOCABULARY)
	@touch $@

demo: $(STAMP)  ## build the embedded model and draw a contact sheet
	@$(BIN)/latentrt demo --output out

test: $(STAMP)  ## all fast tests, examples included
	@$(TESTS)

check: $(STAMP)  ## what must be clean before a commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(TESTS)

FAMILY ?= sd1
PRECISION ?= fp32
BACKEND ?= ort-cpu
full-size: $(STAMP)  ## FAMILY=sd1 at its true size: build time, memory, parity (20 GB of disk; sdxl 30)
	@$(BIN)/python -m latentrt.benchmarks.full_size --work out/full-size \
		--family $(FAMILY) --precision $(PRECISION) --backend $(BACKEND) $(foreach gpu,$(GPU),--gpu $(gpu))

bench: $(STAMP)  ## the embedded model against diffusers: latency, cold start, host overhead
	@$(BIN)/python -m latentrt.benchmarks.latency

samplers: $(STAMP)  ## a contact sheet of all samplers, and how fast they converge (10 minutes)
	@$(BIN)/python -m latentrt.benchmarks.samplers

clean:  ## removes what the other targets made, but for .venv
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
