// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CFuzzer
import Glibc

/// What can be fuzzed, by name; the environment variable FUZZ_TARGET chooses.
let targets: [String: @Sendable ([UInt8]) -> Void] = [
    "frame": fuzzFrame,
    "message": fuzzMessage,
    "record": fuzzRecord,
    "staging-log": fuzzStagingLog,
    "invitation": fuzzInvitation,
    "session": fuzzSession,
    "tag-map": fuzzTagMap,
    "export": fuzzExport,
    "snapshot-store": SnapshotStoreTarget().run,
    "thin-metadata": ThinMetadataTarget().run,
]

guard let name = unsafe getenv("FUZZ_TARGET").map({ unsafe String(cString: $0) }),
    targets[name] != nil
else {
    print("FUZZ_TARGET must be one of: \(targets.keys.sorted().joined(separator: " "))")
    exit(2)
}

/// Looked up once: the callback can capture nothing.
let chosen: @Sendable ([UInt8]) -> Void = targets[name] ?? { _ in }

var count = CommandLine.argc
var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
exit(
    unsafe LLVMFuzzerRunDriver(&count, &arguments) { data, size in
        guard let data = unsafe data else { return 0 }
        // SAFETY: libFuzzer lends `size` bytes for the length of the call.
        let bytes = unsafe Array(UnsafeBufferPointer(start: data, count: size))
        MainActor.assumeIsolated { chosen(bytes) }
        return 0
    })
