# `make demo` and `make test` are all a newcomer needs; the rest is for those who change the code.

PYTHON ?= python3.11
VENV   ?= .venv
RUN    := $(VENV)/bin

.PHONY: help demo test test-fast test-slow fuzz gpu gpu-bundle docs lock lint format clean

help:
	@echo "make demo       install into $(VENV), pretrain a small SIM on built-in speech, write a report with sound (about 6 minutes)"
	@echo "make test       run the tests, except those that take minutes each"
	@echo "make test-fast  run the tests of the parts alone, in a minute"
	@echo "make fuzz       1,000 damaged audio files and 100 killed runs: about 20 minutes"
	@echo "make test-slow  run the tests that take minutes each"
	@echo "make gpu        all that a GPU is needed for, in 10 minutes: see docs/gpu.md"
	@echo "make docs       write the pages of results and build the site in build/site; a dead link fails"
	@echo "make lock       pin every package, indirect ones included, in constraints-lock.txt"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite what it can"
	@echo "make clean      remove $(VENV), runs/ and caches"

# Made again whenever what it installs has changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[dev]'
	touch $@

# A minute of training, and the measures that take less than one; on one thread, as two are slow on a busy machine.
DEMO_DECODER := --corpus_settings '{num_syllables: 1, num_test: 16}' --crop_samples 5000 --loss stft \
	--decoder_hidden_size 64 --batch_size 8 --learning_rate 3e-3 --max_steps 400 --max_train_time 1
DEMO_REPORT := --corpus synthetic_syllables --corpus_settings '{num_syllables: 1, num_train: 256, num_test: 96}' \
	--label vowel --modules 0 --measures probes,disentanglement,distribution,decoders --axes own \
	--num_utterances 16 --num_pairs 8 --steps 6 --max_frames 4000

demo: $(VENV)/.installed
	$(RUN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no training/pretrain.py --output_dir runs/demo --overwrite_output_dir
	$(RUN)/python examples/01_load_and_encode.py runs/demo
	OMP_NUM_THREADS=1 $(RUN)/modeling-sim train-decoder --model runs/demo --module 0 $(DEMO_DECODER) --output_dir runs/demo-decoder --overwrite_output_dir
	OMP_NUM_THREADS=1 $(RUN)/modeling-sim evaluate --model runs/demo --decoder runs/demo-decoder $(DEMO_REPORT) --output_dir runs/demo-report --overwrite_output_dir
	@echo "Open $(CURDIR)/runs/demo-report/report.html in a browser to see and hear what the model has learned."

# Two files of tests at a time, one thread each; ARGS are further arguments of pytest.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/.installed
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.installed
	$(RUN)/python -m pytest -m slow $(ARGS)

# Tests of the parts: without those that train, start processes or talk to a Hub. The fixtures are cheap, so that a
# worker may take tests of any file from the other.
test-fast: $(VENV)/.installed
	$(PYTEST) --dist worksteal -m "not slow and not trains"

fuzz: $(VENV)/.installed
	$(RUN)/python benchmarks/fuzz.py --count 1000 --seed 0
	$(RUN)/python benchmarks/fuzz_kills.py --count 100 --seed 0

# With the Python that has PyTorch for the GPU, which need not be of this checkout: DEVICE, BUDGET, PARTS, OUT, BUNDLE.
gpu:
	$(or $(wildcard $(RUN)/python),python3) -m benchmarks.gpu

# What `make gpu` needs on a machine without a network; DATA is a folder with `artificial_speech` and `librispeech`.
gpu-bundle: $(VENV)/.installed
	$(RUN)/python -m benchmarks.gpu_bundle $(if $(DATA),--data $(DATA))

docs: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[docs]'
	$(RUN)/python docs/make.py
	$(RUN)/zensical build --clean --strict

lock:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --constraint constraints.txt \
		--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --output-file constraints-lock.txt

lint: $(VENV)/.installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(VENV)/.installed
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .mypy_cache
