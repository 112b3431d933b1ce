# Everything starts here; CI runs `make test` and nothing else.
#
#   make test    install what is missing, lint, build, run the whole test suite
#   make demo    install what is missing, build, move real files out of memory and back, and compare every page
#   make soak    the long campaigns of docs/testing.md: millions of random operations, hundreds of kills, sanitizers; hours
#   make bench   how fast pages go out and come back, through the mount and without it
#   make library libshrinkd.so.1 with its header and pkg-config file in .build/library; PREFIX=DIR says where they will lie
#   make build   optimised programs in .build/release
#   make lint    formatting, as CI sees it
#   make deps    only install what is missing (as root), or name the command that would

SHELL := /bin/bash

.PHONY: bench build clean demo deps library lint soak test

deps:
	@.ci/packages

build: deps
	swift build -c release

library: deps
	swift build -c release --target ShrinkLibrary
	.ci/library .build/release .build/library $(PREFIX)

lint:
	swift format lint --strict --recursive Sources Tests Package.swift

test: deps lint
	@.ci/tests

soak: deps
	@.ci/soak

demo: deps
	swift build -c release
	@docs/demo.sh

bench: deps
	swift run -c release shrinkbench raw

clean:
	rm -rf .build
