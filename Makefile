# `make demo` compresses the sample model and reports what it cost; `make test` runs the tests; `make bench` measures.
# Both make .venv first, if it is missing or older than the requirements files.

# The Pythons that there are releases of all pinned packages for.
FITS := import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])
BASE_PYTHON := $(shell for python in python3.11 python3.12 python3; do \
	$$python -c '$(FITS)' 2> /dev/null && echo $$python && break; done)
PYTHON := .venv/bin/python
OUT := out
DEMO := --model_name_or_path sample/distilbert-qa-wide --train_file sample/train.json \
	--validation_file sample/dev.json --do_eval --verify_loading --no_cuda --apply_quantization --report
QUANTIZE := $(PYTHON) run_qa_post_training.py $(DEMO)
# The engines that are installed, by requirements-onnx.txt and requirements-openvino.txt: they join the demo.
INSTALLED := from importlib.util import find_spec; from qa.start.engines import ENGINES; \
	print(*(name for name, engine in ENGINES.items() if all(map(find_spec, engine.packages))))
EXTRAS = $(shell $(PYTHON) -c '$(INSTALLED)')

.PHONY: demo test unit lint mutants bench clean

demo: .venv/run-ready
	$(QUANTIZE) --output_dir $(OUT)/dynamic
	$(QUANTIZE) --output_dir $(OUT)/static --quantization_approach static
	$(QUANTIZE) --output_dir $(OUT)/ipex --quantization_approach static --use_ipex
	for engine in $(EXTRAS); do \
		$(PYTHON) export_qa.py $(DEMO) --output_dir $(OUT)/$$engine --export_format $$engine || exit; done
	$(PYTHON) report_qa.py $(patsubst %,$(OUT)/%,dynamic static ipex $(EXTRAS)) --output_dir $(OUT)/report

# One worker on each core, with one thread; `tests/conftest.py` says how to write tests for that.
PYTEST := $(PYTHON) -m pytest --numprocesses logical --dist loadgroup

test: .venv/test-ready lint
	$(PYTEST) --durations 20

# The tests that start no command and train nothing.
unit: .venv/test-ready
	$(PYTEST) -m "not recipe"

lint: .venv/test-ready
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# Changes of the code that no test notices; docs/development.md names those that are known. One room alone:
#   make mutants MUTANTS="qa.questions.answers.*"
MUTANTS := *[147]
MUTMUT := PYTHONPATH=.mutmut OMP_NUM_THREADS=1 $(PYTHON) -m mutmut

mutants: .venv/test-ready .mutmut/bin/mutmut
	$(MUTMUT) run "$(MUTANTS)"
	$(MUTMUT) results

# Not in .venv, where its packages might move others.
.mutmut/bin/mutmut:
	$(PYTHON) -m pip install --quiet --target .mutmut mutmut==3.8.1

# The cost of each stage beside its plain form, to out/bench/RESULTS.md; benchmarks/RESULTS.md is one of real data.
# Another model, other questions, single stages:
#   make bench BENCH_FLAGS="--model_name_or_path ... --train_file ... --validation_file ... --stages start training"
bench: .venv/run-ready
	$(PYTHON) benchmarks/bench.py $(BENCH_FLAGS)

.venv/run-ready: requirements.txt
	$(if $(shell test -x $(PYTHON) || $(or $(BASE_PYTHON),false) -c '$(FITS)' 2> /dev/null || echo missing),\
		$(error Python 3.11 and 3.12 work, and none of them is here: install one, or name it: make demo BASE_PYTHON=path))
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test-ready: requirements-dev.txt requirements-onnx.txt requirements-openvino.txt .venv/run-ready
	$(PYTHON) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .mutmut mutants $(OUT)
