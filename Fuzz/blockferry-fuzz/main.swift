// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CFuzzer

/// What a target does with one input. It must return whatever the input is; a trap is a finding,
/// and so is a `precondition` about the result that fails.
typealias FuzzTarget = ([UInt8]) -> Void

/// All targets, by the name that is the program's first argument.
let targets: [String: FuzzTarget] = [
    "snapshot-store": SnapshotStoreTarget().run,
    "thin-metadata": ThinMetadataTarget().run,
]

let name = CommandLine.arguments.dropFirst().first ?? ""
guard let target = targets[name] else {
    print(targets.keys.sorted().joined(separator: "\n"))
    fatalError("the first argument must be one of these targets")
}
let chosen = target

// SAFETY: the arguments live as long as the program, and libFuzzer lends `count` bytes for the
// call.
_ = unsafe cfuzzer_run(CommandLine.argc, CommandLine.unsafeArgv, 1) { bytes, count in
    unsafe chosen([UInt8](UnsafeBufferPointer(start: bytes, count: count)))
    return 0
}
