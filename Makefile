# The commands of this house. `make` alone lists them.
# PYTHON chooses the interpreter (3.11 or newer) that the environment in .venv is made with.

PYTHON ?=
VET_ARGS ?= --profile quick
TEST_ARGS ?=
TEST_JOBS ?= 2
FUZZ_ARGS ?=
BOOT_ARGS ?=
LAB_ARGS ?= --write docs/lab.md
CHAOS_ARGS ?= --write docs/chaos.md
CRASH_ARGS ?= --jobs 2 --write docs/crash.md
SOAK_ARGS ?= --write docs/soak.md
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-image vet test check fuzz conformance chaos crash soak detection bench image boot image-test lab clean

help: ## List these targets.
	@echo "vetting-agent: decides whether a bare-metal server may enter production."
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  BOOT_ARGS passes flags to boot: make boot BOOT_ARGS='--firmware uefi --memory 768'"
	@echo "  LAB_ARGS passes flags and names of rows to the lab: make lab LAB_ARGS='nvme-*'; --list prints the rows"
	@echo "  CHAOS_ARGS passes flags and names of rows to chaos: make chaos CHAOS_ARGS='clock-*'; --list prints the rows"
	@echo "  TEST_ARGS passes flags to pytest, TEST_JOBS says how many files are tested at a time: make test TEST_JOBS=0"
	@echo "  VET_ARGS passes flags to vet: make vet VET_ARGS='--profile standard --stages SMART,Storage'"
	@echo "  FUZZ_ARGS names parsers; VETTING_FUZZ_CASES and VETTING_FUZZ_SEED say how many cases and which,"
	@echo "    VETTING_FUZZ_JOBS how many processes: make fuzz FUZZ_ARGS=fio"
	@echo "  CRASH_ARGS passes flags to crash: make crash CRASH_ARGS='--replay 7:42'; SOAK_ARGS to soak: SOAK_ARGS='--minutes 2'"
	@echo "  PYTHON chooses the interpreter, 3.11 or newer: make setup PYTHON=/usr/bin/python3.13"

setup: ## Install what is missing to vet this machine: system tools and the environment in .venv.
	@PYTHON='$(PYTHON)' .ci/setup.sh vet

setup-test: ## The same, with what the tests and the checks need.
	@PYTHON='$(PYTHON)' .ci/setup.sh test

vet: setup ## Vet this machine, non-destructively, and write a report; a verdict reached is success.
	@exec $(VENV_PYTHON) -m vetting_agent vet --exit-zero $(VET_ARGS)

test: setup-test ## Run the whole test suite.
	@PYTHONUNBUFFERED=1 exec $(VENV_PYTHON) -m pytest -n $(TEST_JOBS) --dist loadfile $(TEST_ARGS)

check: setup-test ## Lint, formatting and types.
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m mypy

fuzz: setup-test ## Put 100,000 broken answers to the parsers, and 20,000 machines to the guard of the disks.
	@$(VENV_PYTHON) -W ignore -m tests.fuzz.drive $(FUZZ_ARGS)
	@test -n '$(FUZZ_ARGS)' || VETTING_FUZZ_CASES=20000 $(VENV_PYTHON) -m pytest -q tests/stages/test_wipe_guard.py

crash: setup-test ## Kill agents and orchestrators in 300 runs, as root, and write docs/crash.md.
	@exec $(VENV_PYTHON) -m tests.crash $(CRASH_ARGS)

soak: setup-test ## Two hours of heartbeats, logs and a hold in ten minutes, as root; write docs/soak.md.
	@exec $(VENV_PYTHON) -m tests.soak $(SOAK_ARGS)

detection: setup-test ## Run the tests that show what is found and what is left alone; write docs/detection.md.
	@exec $(VENV_PYTHON) -m pytest -q --write-detection

chaos: setup-test ## Break network, orchestrator and host in each way, as root, and write docs/chaos.md.
	@exec $(VENV_PYTHON) -m tests.chaos $(CHAOS_ARGS)

conformance: setup-test ## Test both ends against the wire protocol, then the kit that did it on broken ones.
	@$(VENV_PYTHON) -m tests.conformance.ours
	@VETTING_CONFORMANCE=all PYTHONUNBUFFERED=1 exec $(VENV_PYTHON) -m pytest tests/conformance $(TEST_ARGS)

bench: setup-test ## Measure the agent's own cost and write docs/bench.md.
	@exec $(VENV_PYTHON) tests/bench/bench.py --write docs/bench.md

setup-image:
	@PYTHON='$(PYTHON)' .ci/setup.sh image

image: setup-image ## Build the live image into image/out, as root; see image/README.md.
	@image/build

boot: setup-image ## Boot the image in QEMU over the network and show its run.
	@image/boot $(BOOT_ARGS)

image-test: setup-test setup-image ## Test the image, built if need be: its content, and whole runs in QEMU.
	@test -e image/out/SHA256SUMS || image/build
	@VETTING_IMAGE=image/out PYTHONUNBUFFERED=1 exec $(VENV_PYTHON) -m pytest tests/image $(TEST_ARGS)

lab: setup-image ## Play machines with real faults, and write docs/lab.md; a stopped lab goes on where it was.
	@test -e image/out/SHA256SUMS || image/build
	@exec $(VENV_PYTHON) -m image.lab $(LAB_ARGS)

clean: ## Remove the environment and caches; reports stay.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
