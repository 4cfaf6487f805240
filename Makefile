# Every target first installs into .venv what it needs; nothing but Python 3.11+ has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed, by extra: `export` builds and draws; `dev` holds it and all that tests and benchmarks need
EXPORT := $(VENV)/.installed-export
DEV := $(VENV)/.installed-dev
# Ray and the many packages that it asks for; the slow tests alone need it
RAY := $(VENV)/.installed-ray
# Carries CLIP's vocabulary for the tokenizer's tests. Nothing of it is imported, so the torchvision and timm that it
# asks for, and an extra could not leave out, stay away.
CLIP_VOCABULARY := open-clip-torch==3.3.0
# Reads upscalers' weights. The torchvision that it asks for is for networks of other kinds, and breaks transformers where
# it is not of the build that torch is.
SPANDREL := spandrel==0.4.2
# A process per core, four at most: each takes up to 2 GB. What they compile is kept, as half of a start is compiling.
TESTS := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all check full-size bench bench-report bench-full-size bench-serving gpu samplers clean

define new_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "latentrt needs Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=")'
@$(PYTHON) -m venv $(VENV)
endef

$(EXPORT): pyproject.toml constraints.txt
	@echo "installing what building needs into $(VENV): 1 to 2 minutes and the download, of which torch is some hundred MB"
	$(new_venv)
	@$(PIP) --editable '.[export]'
	@touch $@

$(DEV): pyproject.toml constraints.txt
	@echo "installing what tests and benchmarks need into $(VENV): 2 to 3 minutes and the download; 2 GB of disk"
	$(new_venv)
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps $(CLIP_VOCABULARY) $(SPANDREL)
	@touch $(EXPORT) $@

$(RAY): $(DEV)
	@$(PIP) --editable '.[ray]'
	@touch $@

demo:  ## build the embedded model and draw a contact sheet
	@echo "make demo installs what building needs (once), builds the embedded model (1 minute), draws 32 pictures (10 seconds)"
	@$(MAKE) --no-print-directory $(EXPORT)
	@$(BIN)/latentrt demo --output out

test: $(DEV)  ## the tests that a change is tried with: every workflow, family, backend and kind of error (two cores: 4 to 5 minutes, the first run 5)
	@$(TESTS)

test-all: $(RAY)  ## these and the slow ones: every combination, and searches that run to their end
	@$(TESTS) -m 'not gpu'

check: $(DEV)  ## what must be clean before a commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(TESTS)

FAMILY ?= sd1
BACKEND ?= ort-cpu
full-size: $(DEV)  ## FAMILY=sd1 at its true size: build time, memory, parity (20 GB of disk; sdxl 30, svd 40)
	@$(BIN)/python -m latentrt.benchmarks.studies.full_size --work out/full-size \
		--family $(FAMILY) $(PRECISION:%=--precision %) --backend $(BACKEND) $(foreach gpu,$(GPU),--gpu $(gpu))

BENCH := $(BIN)/latentrt bench
ROWS := fp32@ort-cpu int8@ort-cpu int8@openvino bf16@openvino
SIZES := --profile 64x64x4 --profile 32x32 --profile 96x96 --profile 128x128
bench: $(DEV)  ## the embedded model against diffusers, into out/bench
	@$(BIN)/latentrt build emoji -o out/bench/emoji-fp32.bundle $(SIZES)
	@$(BENCH) out/bench/emoji-fp32.bundle --varied-runs 2 \
		--json out/bench/emoji.json --report out/bench/emoji.html --markdown out/bench/emoji.md

bench-report: $(DEV)  ## the embedded model against every peer, into benchmarks/results and the pages (idle machine, 1 hour)
	@for precision in fp32 int8; do \
		$(BIN)/latentrt build emoji -o out/bench/emoji-$$precision.bundle --precision $$precision $(SIZES) || exit; done
	@$(BIN)/latentrt build out/bench/emoji-fp32.bundle -o out/bench/emoji-bf16.bundle --precision bf16 --backend openvino
	@$(BIN)/latentrt build out/bench/emoji-int8.bundle --backend openvino
	@mkdir -p benchmarks/results
	@$(BENCH) $(foreach row,$(ROWS),out/bench/emoji-$(subst @,.bundle@,$(row))) --against all $(if $(ICONS),--icons $(ICONS)) \
		--json benchmarks/results/emoji.json --report benchmarks/results/emoji.html
	@$(BIN)/python -m latentrt.benchmarks.report.readme

SD1 := out/full-size/sd1
# int8 for OpenVINO is calibrated with it: what passes on ONNX Runtime may miss the gate there
FULL_SIZE_ROWS := fp32@ort-cpu int8@ort-cpu int8-openvino@openvino bf16@openvino
MADE := $(BIN)/python -m latentrt.benchmarks.studies.full_size
bench-full-size: $(DEV)  ## SD 1.5's architecture likewise, random weights (idle machine, 2 hours, 40 GB of disk)
	@test -d $(SD1) || $(MADE) checkpoint sd1 $(SD1)
	@$(BIN)/latentrt build $(SD1) -o $(SD1)-fp32.bundle --profile 512x512
	@$(MADE) int8 $(SD1)-fp32.bundle $(SD1)-int8.bundle
	@$(MADE) bf16 $(SD1)-fp32.bundle $(SD1)-bf16.bundle
	@$(MADE) int8 $(SD1)-fp32.bundle $(SD1)-int8-openvino.bundle openvino
	@mkdir -p benchmarks/results
	@$(BENCH) $(foreach row,$(FULL_SIZE_ROWS),$(SD1)-$(subst @,.bundle@,$(row))) --checkpoint $(SD1) --against all --resident one \
		--runs 3 --cold-runs 1 --varied-runs 0 --steps 3 --timeout 3600 \
		--note "The architecture of SD 1.5 with random weights: speed, memory and parity only." \
		--json benchmarks/results/sd1.json --report benchmarks/results/sd1.html
	@$(BIN)/python -m latentrt.benchmarks.report.readme

bench-serving: $(DEV)  ## clients at a server, beside one at a time and beside peers, and chaos, into benchmarks/results/serving (idle machine, 15 minutes)
	@$(BIN)/latentrt build emoji -o out/serving/emoji.bundle --profile 64x64x8 --profile 32x32x8 --profile 96x96x4
	@mkdir -p benchmarks/results/serving
	@$(BIN)/python -m latentrt.benchmarks.serving load out/serving/emoji.bundle --checkpoint models/emoji \
		--json benchmarks/results/serving/load.json --report benchmarks/results/serving/load.html --page docs/serving/load.md
	@$(BIN)/python -m latentrt.benchmarks.serving chaos out/serving/emoji.bundle --json benchmarks/results/serving/chaos.json

# What has torch for the GPU; nothing is installed but the checkout itself, so it may be offline
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:  ## on a machine with an NVIDIA GPU: what works, tests, parity, speed beside diffusers; goes on where it was (GPU_OPTIONS=--help)
	@$(GPU_PYTHON) -P -c 'import latentrt.benchmarks' 2>/dev/null || \
		$(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@$(GPU_PYTHON) -m latentrt.benchmarks.gpu run $(GPU_OPTIONS)

samplers: $(DEV)  ## a contact sheet of all samplers, and how fast they converge (10 minutes)
	@$(BIN)/python -m latentrt.benchmarks.studies.sampler_convergence

clean:  ## removes what the other targets made, but for .venv
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
