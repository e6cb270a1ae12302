# AIOS: every command that people and CI need. `make` alone lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO          ?= go
PREFIX      ?= /usr/local
PACKAGES    ?= ./...
BENCHFLAGS  ?=
FUZZTIME    ?= 30s
VERSION     := $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X aios.dev/aios/abi.Version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# systrap cannot run in a binary that links cgo; only the race detector needs it.
export CGO_ENABLED := 0

.PHONY: help
help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build aiosd and aiosctl into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/aiosd ./cmd/aiosctl

.PHONY: run
run: build ## run the example agent: a Python program that writes, runs and repairs code
	bin/aiosctl run --mount ./examples:/examples -- python3 /examples/agent.py

.PHONY: test
test: build ## run every test
	$(GO) test -p 2 -timeout 20m $(PACKAGES)

.PHONY: race
race: ## run the tests under the race detector (kernels on ptrace)
	CGO_ENABLED=1 AIOS_TEST_PLATFORM=ptrace $(GO) test -race -p 2 -timeout 20m $(PACKAGES)

.PHONY: check
check: ## formatting, vet, staticcheck, lock annotations, layering, docs, generated code
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted, run gofmt -w:" $$out; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test ./test/arch

.PHONY: clean
clean: ## remove what the other commands built
	rm -rf bin out
