# Karve's one interface: `make help` lists it. What is longer than a line is a script beside what it serves.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

target := $(or $(CARGO_TARGET_DIR),target)
binaries = $(target)/$(shell rustc --print host-tuple)/debug
images := $(target)/images
version = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# The same definition twice: for kubectl and for Helm. `karve-operator crd` writes both, and `make lint` refuses others.
definitions := config/crd/imagebuilds.karve.dev.yaml charts/karve/files/imagebuilds.karve.dev.yaml

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## install the Debian packages and Rust components that all other targets need
	@tests/cluster/setup.sh

.PHONY: build
build: ## build both programs
	cargo build --workspace

.PHONY: demo
demo: ## build the ImageBuild of config/samples/demo.yaml on this machine, without a cluster
	@tests/cluster/setup.sh small
	cargo build --workspace --bin karve
	@mkdir -p target && ln -sfn "$$(tests/cluster/images.sh busybox)" target/base  # FROM oci-layout:target/base/busybox:1
	$(binaries)/karve run -f config/samples/demo.yaml

.PHONY: test
test: setup images ## run all tests: unit, property, registry, API server, and a whole Kubernetes node (as root)
	@tests/cluster/build.sh >/dev/null
	@tests/judge/build.sh >/dev/null
	cargo test --workspace
	cargo test --workspace --test cluster -- --test-threads=1

.PHONY: lint
lint: setup build ## check format, lints, documentation, dependencies and generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --test cluster -- -D warnings  # a target without `test` is none of "all"
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
	@command -v cargo-deny >/dev/null || (cd / && cargo install --locked cargo-deny)
	cargo deny check bans licenses sources
	@for file in $(definitions); do \
	  $(binaries)/karve-operator crd | diff - $$file || { echo "$$file is stale: run \`make generate\`" >&2; exit 1; }; \
	done

# How long each fuzz target runs, in seconds.
FUZZ_SECONDS ?= 5

.PHONY: fuzz
fuzz: ## run the fuzz targets of the Dockerfile language for a few seconds each (FUZZ_SECONDS)
	@command -v cargo-fuzz >/dev/null || (cd / && cargo install --locked cargo-fuzz)
	CARGO_TARGET_DIR=$(abspath $(target))/fuzz executor/dockerfile/fuzz/run.sh $(FUZZ_SECONDS)

.PHONY: generate
generate: build ## write the generated files: the definition of ImageBuild, for kubectl and for Helm, docs/flags.md, docs/lint.md and the table of docs/dockerfile.md
	$(binaries)/karve-operator crd | tee $(definitions) >/dev/null
	KARVE_UPDATE_DOCS=1 cargo test --quiet --workspace --test command is_current
	KARVE_UPDATE_DOCS=1 cargo test --quiet --workspace --test language coverage

.PHONY: images
images: build ## build the operator's and the executor's images, with Karve itself
	images/build.sh $(binaries) $(images) $(version)

# What of the benchmarks is run; all of it takes half an hour.
WORKLOADS ?=

.PHONY: bench
bench: setup ## measure builds side by side with BuildKit, buildah and plain tools (docs/benchmarks.md; as root; WORKLOADS)
	cargo build --workspace --release --bin karve
	@tests/bench.sh $(target)/$(shell rustc --print host-tuple)/release/karve $(WORKLOADS)

.PHONY: cluster
cluster: setup images ## bring up a Kubernetes node on this machine and install Karve with Helm (as root)
	tests/cluster/up.sh
	tests/cluster/install.sh $(images) $(version)

.PHONY: cluster-env
cluster-env: ## print what a shell needs to use the node: eval "$(make cluster-env)"
	@tests/cluster/env.sh

.PHONY: cluster-down
cluster-down: ## remove the node and all that it left
	tests/cluster/down.sh
