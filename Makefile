# Every target builds .venv first when it is missing or when its settings have changed.
#
#   make test      the tests and the docstrings' examples, in a few minutes on two cores
#   make demo      distils the standard library's own calls and compares: the five-minute tour
#   make check     what CI runs: format, lint, types, import contracts, tests
#   make slow      the tests marked slow, the gradient ladder at its full length among them
#   make spark     the tests of preparing by Spark: they need Java 17, and install pyspark
#   make mutate    mutation testing of what scores, trains and splits, with its page
#   make compat    the tests with the lowest and with the newest versions of every dependency
#   make audit     known vulnerabilities of the pinned versions
#   make sbom      dist/farzi.cdx.json: everything that farzi is made of, as CycloneDX
#   make bench     the benchmarks, written to benchmarks/results/, with their page and plots
#   make docs-site the documentation as a site in site/, every link checked
#   make dist      a wheel and an sdist in dist/
#   make docs      the tables and trees of README.md, ARCHITECTURE.md and docs/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
TEST_THREADS := OMP_NUM_THREADS=1
# A worker a core: every test uses one torch thread (tests/conftest.py).
WORKERS ?= auto
PYTEST := $(TEST_THREADS) $(BIN)/python -m pytest --no-header

DEMO_DIR ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: audit compat sbom help install demo test check format mutate bench slow spark docs docs-site dist clean

help:
	@sed -n 's/^#   make/  make/p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "[install] virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[install] torch"
	@$(PIP) install -qq --constraint constraints.txt torch==2.13.0
	@echo "[install] farzi, its dependencies and the developer tools"
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@echo "[demo] distil stdlib-calls"
	@rm -rf $(DEMO_DIR)
	@$(BIN)/python -m farzi distill stdlib-calls --out $(DEMO_DIR) --config experiments/demo.toml \
		--outer-steps 5
	@echo "[demo] compare"
	@$(BIN)/python -m farzi compare stdlib-calls --artifact $(DEMO_DIR) --seeds 2 \
		--rows full random farzi most-popular --grid-lr 0.01 --grid-dropout 0 0.35 --grid-decay 0 --full-batch 32 \
		--grid-schedule linear --max-steps 600 --max-epochs 24 --tune-seconds 40 --jobs 2
	@echo "$(DEMO_DIR)/artifact"
	@echo "$(DEMO_DIR)/report.html"

test: $(STAMP)
	@$(PYTEST) --numprocesses $(WORKERS)

check: $(STAMP)
	@echo "[check] format"
	@$(BIN)/ruff format --check --quiet .
	@echo "[check] lint"
	@$(BIN)/ruff check --quiet .
	@echo "[check] types"
	@$(BIN)/mypy src
	@echo "[check] import contracts"
	@$(BIN)/lint-imports --no-logo
	@echo "[check] generated documentation"
	@$(BIN)/python scripts/render_docs.py --check
	@echo "[check] site of the documentation"
	@$(BIN)/python scripts/docs_site.py
	@echo "[check] tests and docstrings"
	@$(PYTEST) --numprocesses $(WORKERS)

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

slow: $(STAMP)
	@$(PYTEST) -m slow --numprocesses $(WORKERS)

spark: $(STAMP)
	@$(PIP) install -qq --constraint constraints.txt --editable '.[spark]'
	@$(PYTEST) -m slow tests/unit/data/test_cluster.py

mutate: $(STAMP)
	@$(TEST_THREADS) nice -n 15 $(BIN)/python scripts/mutation.py run

compat audit sbom: $(STAMP)
	@$(BIN)/python scripts/supply.py $@

bench: $(STAMP)
	@for file in benchmarks/bench_*.py; do echo "[bench] $$file"; $(BIN)/python $$file || exit 1; done
	@$(BIN)/python benchmarks/plot_engines.py
	@$(BIN)/python scripts/render_docs.py

docs: $(STAMP)
	@$(BIN)/python scripts/render_docs.py

docs-site: $(STAMP)
	@$(BIN)/python scripts/docs_site.py

dist: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	@rm -rf build site mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
