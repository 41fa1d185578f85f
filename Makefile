# One word for one intent; each sets up what it needs. ARGS goes to Snakemake, as in
# make demo ARGS="--cores 2".
.PHONY: help env dev demo new plan draft looks tune seams test lint bench serve prune refresh publish \
	verify clean-env
.DEFAULT_GOAL := help

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
CORS ?=
RESULTS ?= results
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check
# Files whole, those with whole runs first: the short ones then fill what is left. Two processes more
# than cores, because a test that waits for a server or a lock leaves its core idle.
TESTERS := -n $(shell expr $$(nproc 2>/dev/null || echo 1) + 2) --dist loadfile --no-loadscope-reorder

help:
	@echo "make demo   make the demo's map, offline"
	@echo "make new    a directory for a map of your own (NAME=alps POLYGON=alps.geojson QUARTER=2025Q3)"
	@echo "make plan   what a run would do, take and cost, before a byte moves (after a search)"
	@echo "make draft  a map of the whole region from a thousandth of the bytes, in draft/"
	@echo "make looks  the region in every recipe, on one sheet (ARGS='--at LON,LAT': a place besides)"
	@echo "make tune   change a recipe, see the map change, and save it, in a browser"
	@echo "make serve  look at finished maps in a browser (RESULTS=results HOST=127.0.0.1 PORT=8000 CORS=1)"
	@echo "make refresh  search again, say what changed, build (ARGS=--prune: and prune)"
	@echo "make seams  steps of colour at the borders of tiles and zones: a table, and a picture"
	@echo "make publish  put finished maps into a bucket or folder (ARGS='--to s3://bucket/maps')"
	@echo "make verify  compare the files of finished maps with their digests (RESULTS=results)"
	@echo "make prune  list files that nothing asks for any more (ARGS=--yes: delete them)"
	@echo "make test   run all tests"
	@echo "make lint   check style, types and rules"
	@echo "make bench  measure speed and memory beside GDAL's tools (QUICK=1 GDAL=/path/of/gdal)"
	@echo "make env    only set up: system packages (GDAL) and what a run needs, in .venv"
	@echo "make dev    and what tests and checks need besides"

env: .venv/.done

dev: .venv/.dev

# GDAL's bindings must match the system's GDAL, and are built with numpy so that they pass arrays.
.venv/.done: envs/requirements.txt envs/requirements-pages.txt envs/system.sh envs/interrupts.pth
	@PYTHON=$(PYTHON) envs/system.sh
	$(PYTHON) -m venv .venv
	$(PIP) setuptools==80.9.0 wheel==0.48.0 -r envs/requirements.txt
	$(PIP) --no-deps -r envs/requirements-pages.txt
	$(PIP) --no-build-isolation --no-cache-dir "GDAL[numpy]==$$(gdal-config --version)"
	$(BIN)/python -c "from osgeo import gdal_array"
	@cp envs/interrupts.pth "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')"
	@touch $@

.venv/.dev: .venv/.done envs/requirements-dev.txt
	$(PIP) -r envs/requirements-dev.txt
	@touch $@

demo: env
	$(BIN)/snakemake manifest $(ARGS)
	$(BIN)/snakemake $(ARGS)

new: env
	@$(BIN)/python scripts/commands/new.py $(ARGS) -- "$(NAME)" "$(POLYGON)" "$(QUARTER)"

plan draft looks tune seams refresh publish prune: env
	@$(BIN)/python scripts/commands/$@.py $(ARGS)

test: dev
	$(BIN)/python -m pytest -q $(TESTERS) $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy scripts
	$(BIN)/snakemake --lint

bench: dev
	PYTHONPATH=scripts:tests $(BIN)/python -m benchmarks $(if $(QUICK),--quick) \
		$(if $(GDAL),--gdal $(GDAL)) $(ARGS)

serve: env
	@$(BIN)/python scripts/commands/serve.py $(RESULTS) --host $(HOST) --port $(PORT) \
		$(if $(CORS),--cors)

verify: env
	@$(BIN)/python scripts/commands/verify.py $(RESULTS)

clean-env:
	rm -rf .venv
