# Two commands for a newcomer: `make demo` and `make test`. Both do all set-up, into .venv/, once.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.ready-$(shell cat pyproject.toml constraints.txt .ci/setup | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench nightly loadtest clean wheels

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP):
	@PYTHON="$(PYTHON)" STAMP="$(STAMP)" .ci/setup

demo: $(STAMP) ## a real model trains across simulated phones; ends with build/demo/report.html
	@$(BIN)/edgewise-sim demo $(ARGS)

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## lint, types, import directions, security, secrets, SBOM in build/
	@.ci/check

bench: $(STAMP) ## measure ours beside the limit; writes build/bench.json
	@$(BIN)/python -m tests.bench $(ARGS)

nightly: $(STAMP) ## the long suites: histories, every zoo model, every rule, kills at every write, mutants of secure summing (about three hours)
	@$(BIN)/python -m tests.coordinator.histories --count 5000 --seed 0 & first=$$!; \
	$(BIN)/python -m tests.coordinator.histories --count 5000 --seed 5000; second=$$?; \
	wait $$first && exit $$second
	@$(BIN)/python -m tests.coordinator.histories --count 500 --seed 10000 --database postgresql
	@$(BIN)/python -m tests.coordinator.secure_nightly
	@$(BIN)/python -m tests.system.replicas --rounds 30
	@$(BIN)/python -m tests.system.spending_replicas --budgets 8
	@$(BIN)/python -m tests.coordinator.test_openapi --examples 200
	@$(BIN)/python -m tests.device_sim.audit.nightly
	@$(BIN)/python -m tests.model_export.nightly
	@$(BIN)/python -m tests.model_export.nightly_rules
	@$(BIN)/python -m tests.edge_runtime.store.kills --count 200
	@$(BIN)/python -m tests.edge_runtime.runtime.kills --count 200
	@$(BIN)/python -m tests.mutation
	@command -v node >/dev/null || { echo "nightly: node was not found, and the port in JavaScript needs it; install Node.js 20 or newer" >&2; exit 1; }
	@$(BIN)/python -m tests.vectors.conformance -- node tests/vectors/ports/port.mjs

loadtest: $(STAMP) ## a 20 s locust swarm against a coordinator it starts; writes build/loadtest/verdict.json
	@$(BIN)/edgewise-loadtest run $(ARGS)

wheels: $(STAMP) ## build the wheels edgewise and edgewise-edge into build/wheels/
	@$(BIN)/python -m build --wheel --no-isolation --outdir build/wheels . >/dev/null
	@$(BIN)/python -m build --wheel --no-isolation --outdir build/wheels edge_runtime >/dev/null
	@ls build/wheels

clean: ## remove what was built, and the environment
	rm -rf build .venv
