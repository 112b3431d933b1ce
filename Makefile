# Everything starts here; CI runs `make test` and nothing else.
#
#   make test    install what is missing, lint, build, run the whole test suite
#   make demo    install what is missing, build, move real files out of memory and back, and compare every page
#   make soak    the long campaigns of docs/testing.md: millions of random operations, hundreds of kills, sanitizers; hours
#   make bench   how fast pages go out and come back, through the mount and without it
#   make library   libshrinkd.so.1 with its header and pkg-config file, for programs in any language: in LIBRARY (.build/library)
#   make build   optimised programs in .build/release
#   make install   programs with Swift inside, libshrinkd, units, settings, man pages and docs: PREFIX (/usr) below DESTDIR (nothing)
#   make lint    formatting, as CI sees it
#   make deps    only install what is missing (as root), or name the command that would

SHELL := /bin/bash

.PHONY: bench build clean demo deps install library lint soak test

deps:
	@.ci/packages

build: deps
	swift build -c release

# Where libshrinkd goes: LIBRARY/lib, LIBRARY/include.
LIBRARY ?= .build/library

library: deps
	swift build -c release --target ShrinkLibrary
	.ci/library .build/release $(LIBRARY)

# BIN: a directory with programs that are built already; otherwise they are built here, with nothing of Swift to install beside them.
PREFIX ?= /usr
SYSCONFDIR ?= /etc
BIN ?=
STATIC = swift build -c release --static-swift-stdlib --scratch-path .build-static

install:
ifeq ($(BIN),)
	@for program in shrinkd backupfs shrinkctl; do $(STATIC) --product $$program || exit 1; done
	@$(STATIC) --target ShrinkLibrary
	@.ci/library "$$($(STATIC) --show-bin-path)" "$(DESTDIR)$(PREFIX)" "$(PREFIX)"
	@BIN=$$($(STATIC) --show-bin-path) DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" systemd/install
else
	@BIN="$(BIN)" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" systemd/install
endif

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
	rm -rf .build .build-static
