# The commands of a developer and of CI. What they do lies in scripts/.

PG_MAJOR  ?= 15
PG_CONFIG ?= pg_config
SECONDS   ?= 20

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build test test-core test-fuzz test-docker test-pg test-regress test-cluster test-adversity test-faults test-definitions test-dumps test-hostile-users test-hostile-input test-privileges test-server-life test-upgrades test-load lint install package demo bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'PG_MAJOR=$(PG_MAJOR) chooses the server for tests (15, 17, 18), PG_CONFIG the one to install into.'

setup: ## Install what building and testing need (Debian packages, cargo-pgrx, a server)
	@scripts/setup.sh $(PG_MAJOR)

build: setup ## Compile the extension for PG_MAJOR
	cargo build --no-default-features --features pg$(PG_MAJOR)

test: lint test-core test-docker test-pg test-regress test-cluster test-adversity ## All checks and tests, against the server of PG_MAJOR

test-core: setup ## Tests of the pure core, without a server
	cargo test -p cache_refresher_core

test-fuzz: setup ## Fuzz the core, not part of test (SECONDS=240 for each target, TARGET=cron for one)
	scripts/test-fuzz.sh $(SECONDS) $(TARGET)

test-docker: setup ## Tests of the container's start script, without a container
	tests/docker/entrypoint_test.sh

test-pg: setup ## Tests that run inside a server
	scripts/test-pg.sh $(PG_MAJOR)

test-regress: setup ## SQL and interleaving tests (ACCEPT=1 takes over their output)
	scripts/test-regress.sh $(PG_MAJOR)

test-cluster: setup ## Tests on whole servers: crashes, promotion, several databases
	scripts/test-cluster.sh $(PG_MAJOR)

test-adversity: setup ## Tests that break things on purpose: all that follow
	scripts/test-adversity.sh $(PG_MAJOR)

test-faults: setup ## Processes that die, disks that are full, workers that are taken
	scripts/test-adversity.sh $(PG_MAJOR) faults

test-definitions: setup ## Views and what they read change under us
	scripts/test-adversity.sh $(PG_MAJOR) definitions

test-dumps: setup ## Dump, restore and copies of databases
	scripts/test-adversity.sh $(PG_MAJOR) dumps

test-hostile-users: setup ## Roles that want more than they have
	scripts/test-adversity.sh $(PG_MAJOR) hostile_users

test-hostile-input: setup ## Arguments, settings and states that nobody expects
	scripts/test-adversity.sh $(PG_MAJOR) hostile_input

test-privileges: setup ## Every role against every function, view and table
	scripts/test-adversity.sh $(PG_MAJOR) privileges

test-server-life: setup ## Standbys, promotions, closed databases
	scripts/test-adversity.sh $(PG_MAJOR) server_life

test-upgrades: setup ## pg_upgrade from an older server with the extension
	scripts/test-adversity.sh $(PG_MAJOR) upgrades

test-load: setup ## Thousands of views, and a long time (CACHE_REFRESHER_SOAK=1800 seconds)
	scripts/test-adversity.sh $(PG_MAJOR) load

lint: setup ## Formatting, clippy, documentation build, shellcheck
	scripts/lint.sh $(PG_MAJOR)

install: ## Release build, installed into the server of PG_CONFIG
	scripts/install.sh $(PG_CONFIG)

package: setup ## A Debian package for PG_MAJOR, in target/
	scripts/package.sh $(PG_MAJOR)

demo: setup ## The main job, live, on a throw-away server (KEEP=1 leaves it running)
	KEEP=$(KEEP) scripts/demo.sh $(PG_MAJOR)

bench: setup ## Measure what it costs here (ARGS="idle" for one part of it)
	scripts/bench.sh $(PG_MAJOR) $(ARGS)

clean: ## Remove everything built
	cargo clean
