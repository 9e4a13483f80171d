# A thin front: each target is one program that may also be run by itself. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo build test system-test bench bench-docs fuzz lint soak install clean guest-kernel deb

DESTDIR ?=
PREFIX ?= /usr/local
ARGS ?=

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## set everything up and run a piece of Python in a VM
	@tools/demo $(ARGS)

build: ## the release build, in build/
	@tools/lib/build-release build $(PREFIX)

test: ## all suites: lint, unit, fuzz replay, attack, integration, system
	@tools/test all $(ARGS)

system-test: ## the Debian package under systemd, and cgroup v2, in a whole Debian in QEMU (three minutes)
	@tests/system/run $(ARGS)

bench: ## measure; ARGS="--quick", ARGS="--only create"
	@tests/performance/akira-bench $(ARGS)

bench-docs: ## draw docs/plots anew from the last `make bench`
	@tests/performance/plot build/bench/results.json --out docs/plots

fuzz: ## fuzz for longer; ARGS="--time 600 json"
	@tools/fuzz $(ARGS)

lint: ## all linters
	@tools/lint $(ARGS)

soak: ## a thousand cycles with every count compared, and a neighbour under attack; ARGS="--cycles 100"
	@tests/soak/soak $(ARGS)

install: build ## install the release build under PREFIX (DESTDIR is honoured)
	@DESTDIR="$(DESTDIR)" meson install -C build --no-rebuild

guest-kernel: ## build the minimal guest kernel (about six minutes)
	@tools/kernel/build $(ARGS)

deb: ## build the Debian package
	@packaging/build-deb $(ARGS)

clean: ## remove what was built here (the cache of images and kernels stays)
	@rm -rf build build-test build-fuzz build-lint build-analyzer .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
