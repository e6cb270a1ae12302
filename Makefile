# AIOS: every command that people and CI need. `make` alone lists them.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

GO         ?= go
PREFIX     ?= /usr/local
PACKAGES   ?= ./...
BENCHFLAGS ?=
FUZZTIME   ?= 30s

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X aios.dev/aios/abi.Version=$(VERSION)
GOTEST  := $(GO) test -p 2 -timeout 40m

# Tools run at fixed versions; checklocks comes with the gVisor that is linked.
GVISOR      = $(shell $(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor)
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
CHECKLOCKS  = $(GO) run gvisor.dev/gvisor/tools/checklocks/cmd/checklocks@$(GVISOR)

# The systrap platform cannot run in a binary that links cgo. The race detector
# links it; ptrace then wants a C library without restartable sequences.
export CGO_ENABLED := 0
RACEENV := CGO_ENABLED=1 GLIBC_TUNABLES=glibc.pthread.rseq=0 AIOS_TEST_PLATFORM=ptrace AIOS_REQUIRE_PTRACE=1

# Exhaustive tests of one goroutine, which tell the detector nothing.
RACESKIP := ^(TestProgramsAreWhatTheirTablesSay|TestADifferenceIsFound|TestEveryBitCounts|TestEveryByteCounts|TestTamperingIsFound)$$

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build aiosd and aiosctl into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/aiosd ./cmd/aiosctl

.PHONY: run
run: build ## run the example agent: a Python program that writes, tests and repairs code
	bin/aiosctl run --mount ./examples:/examples -- python3 /examples/agent.py

.PHONY: test
test: build bin/nats-server ## run every test; PACKAGES=./sentry/... for some of them
	$(GOTEST) $(PACKAGES)

.PHONY: race
# The simulator has one goroutine, and its thousands of worlds take minutes there.
race: bin/nats-server ## run the tests under the race detector, kernels on ptrace
	$(RACEENV) $(GOTEST) -race -skip '$(RACESKIP)' $$($(GO) list $(PACKAGES) | grep -v -e /test/e2e -e /sched/sim)

.PHONY: check
check: ## formatting, vet, staticcheck, lock annotations, generated code, the rules of ARCHITECTURE.md
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); test -z "$$bad" || { echo "run gofmt -w on:" $$bad; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(CHECKLOCKS) -inferred=false -test=false ./...
	tools/generate -check
	$(GO) test ./test/arch

.PHONY: generate
generate: ## write the Go code of the .proto files, the tables of docs and the seccomp programs anew
	tools/generate

.PHONY: bench
bench: build bin/runsc ## measure AIOS beside runsc, runc, crun and bwrap; BENCHFLAGS=-help for choices
	$(GO) run ./tools/bench $(BENCHFLAGS)

bin/runsc: tools/runsc/go.mod tools/runsc/go.sum
	cd tools/runsc && $(GO) build -trimpath -ldflags '-s -w' -o ../../$@ gvisor.dev/gvisor/runsc

# The receiver of tests about sinks.
bin/nats-server: tools/nats-server/go.mod tools/nats-server/go.sum
	cd tools/nats-server && $(GO) build -trimpath -ldflags '-s -w' -o ../../$@ github.com/nats-io/nats-server/v2

.PHONY: vm-test
vm-test: ## test kvm and cgroup v2 in an emulated machine
	test/vm/run

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' [a-z]* | sed 's|/[^/]*:func | |' | while read -r dir target; do \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$dir"; done

.PHONY: sim
sim: ## run random worlds of the scheduler for a minute, or the one of SEED again; SIMFLAGS=-help for choices
	$(GO) run ./tools/sim $(if $(SEED),-seed $(SEED)) $(SIMFLAGS)

.PHONY: soak
soak: build vm-test ## the long runs: the emulated machine, races and fuzzing for an hour each, ten thousand spawns, chaos for half an hour, 11,600 clones
	$(MAKE) fuzz FUZZTIME=1h
	AIOS_SOAK=1 $(RACEENV) $(GO) test -race -timeout 6h ./capability ./sentry
	AIOS_SOAK=1 $(GO) test -timeout 3h -skip TestClonePrograms ./test/e2e
	AIOS_INSTANTS=200 $(GO) test -timeout 12h -v -run TestClonePrograms ./test/e2e
	$(GO) run ./tools/bench -only sustain,density -sustain 10m

.PHONY: install
install: build ## install aiosd and aiosctl into PREFIX/bin
	install -D -t $(DESTDIR)$(PREFIX)/bin bin/aiosd bin/aiosctl

.PHONY: clean
clean: ## remove what these commands built
	rm -rf bin out
