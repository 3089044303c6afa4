# make demo   the whole way, from this machine's own Python library to a language model and a classifier (about 5 minutes after the install)
# make test   every test, and the rules of this repository (ruff, mypy, import directions, …) as tests
# make lint   the quick rules alone
# make bench  the side-by-side measurements that need nothing from elsewhere (long; results in benchmarks/results)
#
# Each sets up .venv by itself, again whenever pyproject.toml or constraints.txt has changed.

.PHONY: demo test lint bench clean help
.DEFAULT_GOAL := help

BIN := .venv/bin

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '1,4p'

.venv/.ready: pyproject.toml constraints.txt tools/setup.sh
	@bash tools/setup.sh '.[tasks]' $@

.venv/.ready-dev: .venv/.ready
	@bash tools/setup.sh '.[dev]' $@

demo: .venv/.ready
	@$(BIN)/wordmill demo

test: .venv/.ready-dev
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: .venv/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 3

bench: .venv/.ready-dev
	@for name in startup tokenizing generation; do \
	    echo "── benchmarks/$$name.py ──"; $(BIN)/python benchmarks/$$name.py || exit 1; done
	@echo "throughput, time_to_loss, recurrent, corpus and budget_curve need a peer's checkout or a data set: see the head of each."

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
