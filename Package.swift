// swift-tools-version: 6.3
// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// One place for every compiler setting, so that a target cannot opt out by accident.
let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

func module(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

/// A module that needs the Linux-only parts of the C library (`O_DIRECT`, `fallocate`, …).
func linuxModule(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(
        name: name, dependencies: dependencies, cSettings: [.define("_GNU_SOURCE")],
        swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(
        name: name, dependencies: dependencies + ["TestSupport"], swiftSettings: settings)
}

func benchmark(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, path: "Benchmarks/\(name)",
        swiftSettings: settings)
}

/// The programs carry Swift's libraries in themselves: they start sooner, and a host needs no toolchain. What
/// Foundation's static libraries need is not linked by itself, as the objects are also those of the tests.
let selfContained: [LinkerSetting] =
    [.unsafeFlags(["-static-stdlib"])]
    + ["CoreFoundation", "_FoundationICU", "_FoundationCShims", "_FoundationCollections"]
    .map { .linkedLibrary($0) }

let arguments: Target.Dependency =
    .product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "blockferry",
    products: [
        .executable(name: "blockferry", targets: ["blockferry"]),
        .executable(name: "blockferryd", targets: ["blockferryd"]),
        .executable(name: "blockferryd-lvm", targets: ["blockferryd-lvm"]),
        .library(name: "ChangedBlocks", targets: ["Blocks", "SnapshotStore", "ThinMetadata"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    ],
    targets: [
        // MARK: C
        .systemLibrary(
            name: "COpenSSL", pkgConfig: "openssl",
            providers: [.apt(["libssl-dev"]), .yum(["openssl-devel"])]),
        .systemLibrary(
            name: "CZstd", pkgConfig: "libzstd",
            providers: [.apt(["libzstd-dev"]), .yum(["libzstd-devel"])]),
        .systemLibrary(
            name: "CXXHash", pkgConfig: "libxxhash",
            providers: [.apt(["libxxhash-dev"]), .yum(["xxhash-devel"])]),
        .systemLibrary(
            name: "CBlkid", pkgConfig: "blkid",
            providers: [.apt(["libblkid-dev"]), .yum(["libblkid-devel"])]),
        .target(name: "CLinux", cSettings: [.define("_GNU_SOURCE")]),
        .target(name: "CChecksum"),
        // MARK: Vocabulary
        module("Blocks", ["CChecksum"]),
        module("Digests", ["Blocks", "COpenSSL", "CXXHash"]),
        module("Objects"),
        module("HPKE", ["Blocks", "Digests", "COpenSSL"]),
        linuxModule("Platform", ["Blocks", "Objects", "CLinux"]),
        // MARK: Pure
        module("SnapshotStore", ["Blocks"]),
        module("ThinMetadata", ["Blocks"]),
        module("Wire", ["Blocks", "Digests"]),
        module("Session", ["Blocks", "Digests", "Wire"]),
        module("TagMap", ["Blocks", "Digests"]),
        // MARK: Effects
        module("TLS", ["Blocks", "Digests", "Platform", "HPKE", "COpenSSL"]),
        module("Compression", ["Blocks", "CZstd"]),
        module(
            "Catalog",
            [
                "Blocks", "Objects", "Digests", "Platform", "Wire",
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        module("LVM", ["Blocks", "Objects", "Digests", "Platform", "ThinMetadata"]),
        module("Volumes", ["Blocks", "Digests", "Platform", "Wire", "LVM", "ThinMetadata"]),
        module("Signatures", ["Platform", "CBlkid"]),
        module("MapStore", ["Blocks", "Digests", "Platform", "TagMap", "Wire"]),
        linuxModule(
            "Staging", ["Blocks", "Objects", "Digests", "Platform", "Wire", "Compression"]),
        module("Connection", ["Blocks", "Digests", "Platform", "Wire", "TLS"]),
        // MARK: Engines
        linuxModule(
            "Sending",
            [
                "Blocks", "Objects", "Digests", "Platform", "SnapshotStore", "ThinMetadata",
                "Wire", "Session", "HPKE", "TLS", "Connection", "Compression", "Catalog", "LVM",
                "TagMap", "MapStore", "Staging",
            ]),
        linuxModule(
            "Receiving",
            [
                "Blocks", "Objects", "Digests", "Platform", "Wire", "Session", "HPKE", "TLS",
                "Connection", "Catalog", "Staging", "Volumes", "Signatures", "TagMap", "MapStore",
            ]),
        // MARK: Programs
        module("CommandLine", ["Platform", "Wire", "TLS", "Catalog", arguments]),
        .executableTarget(
            name: "blockferry",
            dependencies: [
                "CommandLine", "Sending", "Blocks", "Digests", "Platform", "SnapshotStore",
                "ThinMetadata", "Session", "Wire", "TLS", "Catalog", "LVM", arguments,
            ],
            swiftSettings: settings, linkerSettings: selfContained),
        .executableTarget(
            name: "blockferryd",
            dependencies: [
                "CommandLine", "Receiving", "Objects", "Digests", "Platform", "Staging", "Wire",
                "TLS",
                "Catalog", "Volumes", arguments,
            ],
            swiftSettings: settings, linkerSettings: selfContained),
        .executableTarget(
            name: "blockferryd-lvm", dependencies: ["Platform", "Volumes", arguments],
            swiftSettings: settings, linkerSettings: selfContained),
        // MARK: Simulation
        .target(name: "CDiskTrace", path: "Tests/Simulation/CDiskTrace"),
        .executableTarget(
            name: "blockferry-simulation",
            dependencies: [
                "CDiskTrace", "Blocks", "Digests", "Platform", "Wire", "TagMap", "MapStore",
                "Catalog", "Connection", "Receiving", "Session", arguments,
            ], path: "Tests/Simulation/Simulation", swiftSettings: settings),
        // MARK: Tests
        .target(
            name: "TestSupport", dependencies: ["Blocks", "Platform"], path: "Tests/TestSupport",
            swiftSettings: settings),
        tests("BlocksTests", ["Blocks"]),
        tests("ObjectsTests", ["Objects"]),
        tests("DigestsTests", ["Blocks", "Digests"]),
        tests("PlatformTests", ["Blocks", "Platform"]),
        tests("SnapshotStoreTests", ["Blocks", "Platform", "SnapshotStore"]),
        tests("ThinMetadataTests", ["Blocks", "Platform", "ThinMetadata"]),
        tests(
            "WireTests",
            ["Blocks", "Digests", "Wire", "Platform", "Staging", "TagMap", "MapStore"]),
        tests("TagMapTests", ["Blocks", "Digests", "TagMap"]),
        tests(
            "MapStoreTests", ["Blocks", "Digests", "Platform", "TagMap", "Wire", "MapStore"]),
        tests("SessionTests", ["Blocks", "Digests", "Wire", "Session"]),
        tests("HPKETests", ["Blocks", "Digests", "HPKE"]),
        tests("TLSTests", ["Blocks", "Digests", "Platform", "HPKE", "TLS"]),
        tests("LVMTests", ["Blocks", "LVM", "Platform"]),
        tests("VolumesTests", ["Blocks", "Digests", "LVM", "Platform", "Wire", "Volumes"]),
        tests("SendingTests", ["Blocks", "Objects", "Digests", "Platform", "Wire", "Sending"]),
        tests("CompressionTests", ["Blocks", "Compression"]),
        tests(
            "CatalogTests",
            [
                "Blocks", "Digests", "Wire", "Catalog", "Platform",
                .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        tests(
            "StagingTests",
            ["Blocks", "Digests", "Platform", "Wire", "Compression", "Staging"]),
        tests(
            "CommandTests",
            [
                "CommandLine", "Blocks", "Digests", "Platform", "Wire", "TLS", "Connection",
                "Session", "Catalog",
            ]),
    ],
    swiftLanguageModes: [.v6]
)

// FUZZ=fuzzer or FUZZ=fuzzer,address: see Fuzz/run.
if let sanitizers = Context.environment["FUZZ"] {
    let sanitize = "-sanitize=\(sanitizers)"
    // What is not to be explored is not traced: Blocks goes over every byte, and the targets themselves.
    let helpers = ["Blocks", "Platform", "blockferry-fuzz"]
    let parsers = [
        "Objects", "Digests", "SnapshotStore", "ThinMetadata", "Wire", "Session", "TagMap",
        "MapStore", "LVM", "Volumes", "HPKE", "TLS", "Compression", "Sending",
    ]
    for target in package.targets where parsers.contains(target.name) {
        target.swiftSettings = (target.swiftSettings ?? []) + [.unsafeFlags([sanitize])]
        // Of Sending the files of a transfer, which need no catalog.
        guard target.name == "Sending" else { continue }
        target.sources = ["SealsFile.swift", "SendPlan.swift", "Source.swift"]
        target.dependencies = ["Blocks", "Objects", "Platform", "Wire"]
    }
    package.targets += [
        .target(name: "CFuzzer", path: "Fuzz/CFuzzer"),
        .executableTarget(
            name: "blockferry-fuzz",
            dependencies: ["CFuzzer", "Blocks", "Platform"] + parsers.map { .byName(name: $0) },
            path: "Fuzz/blockferry-fuzz", swiftSettings: settings,
            linkerSettings: [.unsafeFlags([sanitize, "-use-ld=lld"])]),
    ]
    let address = [SwiftSetting.unsafeFlags(["-sanitize=address"])]
    for target in package.targets where sanitizers.contains("address") {
        if helpers.contains(target.name) { target.swiftSettings? += address }
    }
}
