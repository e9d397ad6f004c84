# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0

SWIFT_BUILD = swift build -c release
PREFIX ?= /usr

.PHONY: help demo build quick test test-kernel test-kernel-of test-units soak years campaign planted-bugs check fmt bench fuzz docs reference install packages vectors clean

help: ## Say what the goals do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

packages: ## Install the Debian packages that building and testing need
	@deploy/build-packages

demo: packages ## Build, pair, replicate kernel-written images over TLS, kill, resume, prove, promote
	@$(SWIFT_BUILD) --product blockferry
	@$(SWIFT_BUILD) --product blockferryd
	@deploy/demo/run

build: packages ## Build the programs (release)
	$(SWIFT_BUILD)

quick: packages ## Build, and run what takes minutes: rules, vectors, the quick Swift suites, one acceptance module
	$(SWIFT_BUILD)
	$(SWIFT_BUILD) --build-tests
	.ci/quick

test: packages ## Build and run all tests but the long campaigns
	$(SWIFT_BUILD)
	$(SWIFT_BUILD) --build-tests
	.ci/tests

test-kernel: build ## Test with the device-mapper of a real kernel, in guests that need no privileges
	Tests/KernelTests/run

test-kernel-of: build ## Test with the kernel of another Debian: SUITE=bullseye (5.10); ROOT=1: with its LVM and tools, SUITE=trixie ROOT=1 (6.12, 2.03.31)
	KERNEL_TEST_SUITE=$(SUITE) KERNEL_TEST_ROOT=$(ROOT) KERNEL_TEST_GUESTS=2 KERNEL_TEST_SECONDS=7200 Tests/KernelTests/run \
		test_thin. test_classic. test_doubt. test_resync. test_rotation. test_increments. test_target_identity.

test-units: build ## Test the package, the units and the manual on two hosts that booted, in the same guests
	Tests/BootedTests/run

soak: build ## 1000 live increments of each kind, thin and classic, each compared
	BLOCKFERRY_INCREMENTS=1000 KERNEL_TEST_GUESTS=2 KERNEL_TEST_SECONDS=14400 KERNEL_TEST_PATIENCE=7200 Tests/KernelTests/run live_increments

years: build ## Hours: 10,000 sends to one daemon with aged catalogs and a clock that leaps, and 500 live ones; what may grow is bounded
	cd Tests/YearsTests && python3 -W ignore -m unittest
	BLOCKFERRY_YEARS_LIVE=$${BLOCKFERRY_YEARS_LIVE:-500} KERNEL_TEST_SECONDS=14400 KERNEL_TEST_PATIENCE=14000 Tests/KernelTests/run YearsTests

campaign: build ## Hours: every step, every cut, ten million crash states, 20,000 histories, every power cut, 100,000 commands of a random administrator, 10^8 inputs a fuzz target
	$(SWIFT_BUILD) --build-tests
	BLOCKFERRY_ROUNDS=40 swift test -c release --skip-build --filter 'GeneratedStoreTests|GeneratedPoolTests'
	LEAST=10000000 SEEDS="1 2 3 4 5 6 7 8 9 10 11 12 13" Tests/Simulation/run
	.build/release/blockferry-simulation histories --seeds 20000
	.build/release/blockferry-simulation lies --states 10000
	.build/release/blockferry-simulation rot --bits 50000
	.build/release/blockferry-simulation sequences --length 6 --least 200000
	cd Tests/FaultTests && BLOCKFERRY_CAMPAIGN=1 python3 -W ignore -m unittest
	Tests/PeerTests/campaign
	cd Tests/AcceptanceTests && BLOCKFERRY_DIVERGENCES=10000 BLOCKFERRY_KILLS=1000 BLOCKFERRY_DECISIONS=all python3 -W ignore -m unittest test_resync test_kills test_decisions
	cd Tests/HostTests && BLOCKFERRY_CAMPAIGN=1 python3 -W ignore -m unittest
	cd Tests/PowerTests && BLOCKFERRY_CAMPAIGN=1 python3 -W ignore -m unittest
	cd Tests/AdministratorTests && BLOCKFERRY_CAMPAIGN=1 python3 -W ignore -m unittest
	BLOCKFERRY_CAMPAIGN=1 KERNEL_TEST_PATIENCE=2000 Tests/KernelTests/run NetworkTests PowerTests AdministratorTests
	Fuzz/run 100000000
	FUZZ_SANITIZER=address Fuzz/run 1000000 handshake

planted-bugs: packages ## Plant one bug after the other and see which harness finds it
	Tests/PlantedBugs/run

check: packages ## Format, imports, warnings, repository rules, deployment files
	swift format lint --strict --recursive --parallel Sources Tests Fuzz Package.swift
	python3 .ci/rules.py
	$(SWIFT_BUILD) --explicit-target-dependency-import-check error
	BLOCKFERRY_BIN=$(CURDIR)/.build/release deploy/check

fmt: ## Format the Swift code
	swift format --in-place --recursive --parallel Sources Tests Fuzz Package.swift

reference: build ## Write the rules, commands and options of docs/REFERENCE.md from the programs
	docs/make-reference

vectors: ## Make the protocol's vectors anew
	python3 Protocol/make-vectors.py

fuzz: packages ## A million runs of every fuzz target; RUNS=N for more
	Fuzz/run $(RUNS)

bench: build ## Compare with the tools people use today
	Benchmarks/run

docs: build ## Manual pages, into .build/plugins/GenerateManual/outputs
	swift package -c release generate-manual --multi-page

install: build ## Install programs and units below DESTDIR; PREFIX is /usr
	PREFIX=$(PREFIX) deploy/install .build/release $(DESTDIR)

clean: ## Remove what was built
	rm -rf .build
