# Bixi: the few commands a person needs. Everything works twice in a row.
#
#   make run      install what is lacking, build, start the all-in-one server on ./data
#   make test     install what is lacking, then every check: the same as .ci/run
#   make build    the program, at $(CARGO_TARGET_DIR)/release/bixi
#   make sim      SEEDS=n seeds of the simulator; SEED=s replays one; VOLUMES=1 works on volumes
#   make soak     HOURS=n of faults on real processes, disks and networks, with a report
#   make sim-mutants  hunts every planted mistake, MUTANT_SEEDS seeds each, and writes docs/planted-bugs.md
#   make scale    the leader's planning over 10,000 disks and the loss of a rack; writes docs/scale.md
#   make guest    the Linux guest that `make test` boots: QEMU, a kernel and tools from Debian, not installed
#   make bench    what this machine reaches
#   make fuzz     feed damaged bytes to every decoder, for FUZZ_SECONDS

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# One target directory outside the checkout, so that every checkout shares the build of RocksDB.
CARGO_TARGET_DIR ?= $(HOME)/.cache/bixi-target
export CARGO_TARGET_DIR
# Rust that was installed a moment ago is not on the path of this shell yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The checkout stays clean.
export PYTHONDONTWRITEBYTECODE := 1

BIN := $(CARGO_TARGET_DIR)/release/bixi
BIN_SIM := $(CARGO_TARGET_DIR)/release/bixi-sim
BIN_SCALE := $(CARGO_TARGET_DIR)/release/bixi-scale
BIN_FUZZ := $(CARGO_TARGET_DIR)/release/bixi-fuzz
VENV ?= $(HOME)/.cache/bixi-venv
# Debian's own Python, because python3-venv belongs to it.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)

DATA ?= ./data
ARGS ?=
SEEDS ?= 100
SEED ?=
SIM_SECONDS ?= 60
MUTANT_SEEDS ?= 40
FUZZ_SECONDS ?= 60
HOURS ?= 1
# What a change must pass always runs the same seeds; `make sim` and `make fuzz` draw new ones.
FIRST_SEED ?= 1
FUZZ_SMOKE_SECONDS ?= 5
TEST_WORKERS ?= 2

PACKAGES := clang libclang-dev cmake make pkg-config protobuf-compiler fuse3 python3-venv curl ca-certificates gcc g++ \
            e2fsprogs iproute2 nftables faketime libnbd-bin qemu-utils fio

.PHONY: help setup build faultdev run test check collect unit fuzz-smoke sim-smoke e2e sim sim-mutants previous soak scale bench fuzz venv guest clean-data

help:
	@sed -n 's/^#   //p' Makefile

# Installs the Debian packages that are lacking; asks nothing; does nothing the second time.
setup:
	@missing=()
	if command -v dpkg-query >/dev/null; then
	  for package in $(PACKAGES); do
	    state=$$(dpkg-query -W -f='$${db:Status-Status}' "$$package" 2>/dev/null || true)
	    [ "$$state" = installed ] || missing+=("$$package")
	  done
	else
	  echo "setup: not a Debian system; these must be here: $(PACKAGES)"
	fi
	if [ $${#missing[@]} -gt 0 ]; then
	  as_root=()
	  if [ "$$(id -u)" != 0 ]; then
	    command -v sudo >/dev/null || { echo "setup: as root: apt-get install $${missing[*]}" >&2; exit 1; }
	    as_root=(sudo)
	  fi
	  echo "setup: installing $${missing[*]}"
	  "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
	  "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    "$${missing[@]}" </dev/null
	fi
	if ! command -v cargo >/dev/null; then
	  echo "setup: Rust is lacking (Debian's own is too old). Install it with rustup, then run make again:" >&2
	  echo "         curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
	  exit 1
	fi

# Always the whole workspace: another set of features would compile RocksDB again.
build:
	cargo build --release --workspace

run: setup
	@cargo build --release --workspace
	exec "$(BIN)" server "$(DATA)" $(ARGS)

# What is quick comes first.
test: setup
	@$(MAKE) --no-print-directory guest
	$(MAKE) --no-print-directory check
	$(MAKE) --no-print-directory collect
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory build
	$(MAKE) --no-print-directory fuzz-smoke
	$(MAKE) --no-print-directory sim-smoke
	$(MAKE) --no-print-directory e2e
	echo "make test: all good"

check:
	cargo xtask check

# Programs and tests are compiled together: apart, one half would wait for the last package of the other.
unit:
	@cargo build --release --workspace --all-targets
	if cargo nextest --version >/dev/null 2>&1; then
	  cargo nextest run --release --workspace --no-fail-fast --status-level slow
	else
	  cargo test --release --workspace --no-fail-fast
	fi

fuzz-smoke: build
	"$(BIN_FUZZ)" --seed $(FIRST_SEED) --seconds $(FUZZ_SMOKE_SECONDS)

sim-smoke: build
	"$(BIN_SIM)" --from $(FIRST_SEED) --seconds $(SIM_SECONDS)

# Disks that fail on demand, for tests as root. Outside the workspace, see its Cargo.toml.
faultdev:
	@cargo build --release --quiet --locked --manifest-path tests/faultdev/Cargo.toml \
	  --target-dir "$(CARGO_TARGET_DIR)/faultdev"

# A test file that cannot even be loaded is said before anything is built.
collect: venv
	@"$(VENV)/bin/pytest" -c tests/pytest.ini --collect-only --quiet tests >"$(VENV)/collected" || { cat "$(VENV)/collected"; exit 1; }

# Real clients against the real program, and real faults below it. Most tests wait more than they
# work: their files are shared by two processes. Those that bound a time, or load the machine, come after
# them, one by one.
e2e: build faultdev venv guest
	"$(VENV)/bin/pytest" -c tests/pytest.ini -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone" tests
	"$(VENV)/bin/pytest" -c tests/pytest.ini -m alone tests

# The program of the landing before, for tests/e2e/test_upgrade.py: four minutes, once.
previous: setup
	@tests/previous.sh

# Every variant of every fault, over and over, with another seed each time.
soak: setup build faultdev venv
	"$(VENV)/bin/python" tests/soak.py --hours $(HOURS) $(ARGS)

# A virtual environment with the pinned clients, made anew when the pins change.
venv:
	@if ! cmp -s tests/requirements.txt "$(VENV)/requirements.installed"; then
	  "$(PYTHON)" -m venv --clear "$(VENV)"
	  "$(VENV)/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
	  cp tests/requirements.txt "$(VENV)/requirements.installed"
	fi

# 64 MB from Debian's mirror the first time, below ~/.cache/bixi-guest (or $BIXI_GUEST).
guest:
	@"$(PYTHON)" tests/guest/prepare.py

# Ends with the line `n seeds, f failed, r seeds/min`; fails if f > 0.
sim: setup
	@cargo build --release --quiet --workspace
	"$(BIN_SIM)" --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) $(if $(VOLUMES),--volumes)

sim-mutants: setup
	@cargo build --release --quiet --workspace
	"$(BIN_SIM)" --mutants $(MUTANT_SEEDS) --report docs/planted-bugs.md $(if $(BUG),--planted $(BUG))

# About a minute and a half; SEED=s draws other placements.
scale: setup
	@cargo build --release --quiet --workspace
	"$(BIN_SCALE)" $(if $(SEED),--seed $(SEED)) --report docs/scale.md --revision "$$(git describe --always --dirty 2>/dev/null || echo unknown)" $(ARGS)

bench: setup build
	@"$(CARGO_TARGET_DIR)/release/erasure"
	BIXI="$(BIN)" benches/server.sh

fuzz: setup
	@cargo build --release --quiet --workspace
	"$(BIN_FUZZ)" --seconds $(FUZZ_SECONDS)

# Forgets everything that `make run` stored.
clean-data:
	@[ -e "$(DATA)" ] || exit 0
	[ -f "$(DATA)/credentials" ] || { echo "clean-data: $(DATA) is not a store of bixi" >&2; exit 1; }
	rm -rf -- "$(DATA)"
