# Two commands do everything a newcomer needs: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= ../shared/data
OUT    ?= runs

.PHONY: demo test check lint types floors tests slow coverage bench train-bundled flood-study ablations clean

demo: $(VENV)/.demo        ## masks on real photographs, offline; prints where the page is
	$(BIN)/masklet demo --out out/demo

test: $(VENV)/.dev         ## everything that CI runs: lint, types, import contract, tests with coverage
	$(MAKE) --no-print-directory check

check: lint types floors coverage

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

floors: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

tests: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.dev         ## trainings on drawn data that must reach a score
	$(BIN)/python -m pytest -m slow

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

bench: $(VENV)/.bench      ## timings side by side with peers, one JSON line a case
	@for f in masks boxes ap matting panoptic semantic vos overlay startup click promptable sam2 frames; do OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/$$f.py || exit 1; done

train-bundled: $(VENV)/.dev   ## the five checkpoints in src/masklet/weights/bundled, from the data in DATA
	@for name in street flood pets nuclei click; do $(BIN)/python -m masklet.recipes.bundled $$name --data-root $(DATA) --out $(OUT)/$$name --install || exit 1; done

flood-study: $(VENV)/.dev  ## the lecture's FCN / VGG-FCN / U-Net experiment on the flood photographs
	$(BIN)/python -m masklet.recipes.flood_study --data flood:$(DATA)/flood_area --out $(OUT)/flood-study

ablations: $(VENV)/.dev    ## two of Mask R-CNN's ablations on drawn shapes, three seeds each
	$(BIN)/python -m masklet.recipes.instance_ablations --out $(OUT)/ablations

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[demo,report]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) out runs .mypy_cache .pytest_cache .ruff_cache .coverage
