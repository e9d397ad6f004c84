// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Asks a parser or a machine with one input; a trap is a finding.
typealias Target = @Sendable ([UInt8]) -> Void

/// What can be fuzzed, and how long an input is at most: what is read as decisions needs few bytes.
///
/// Of the runs that are asked for a target makes one in `share`: where each takes a third of a
/// millisecond in libcrypto, which is not what is fuzzed.
///
/// The environment variable FUZZ_TARGET chooses one by its name, and only that one is made. Those
/// that take longest come first.
let targets: [(name: String, length: Int, share: Int, make: @Sendable () -> Target)] = [
    ("identity", 128, 10, { IdentityTarget().run }),
    ("map-file", 256, 1, { MapFileTarget().run }),
    ("lvm", 512, 1, { fuzzLVM }),
    ("thin-metadata", 256, 1, { ThinMetadataTarget().run }),
    ("tag-map", 512, 1, { fuzzTagMap }),
    ("staging-log", 1024, 1, { fuzzStagingLog }),
    ("export", 1024, 1, { fuzzExport }),
    ("transfer", 256, 1, { fuzzTransfer }),
    ("receiver-session", 256, 1, { fuzzReceiverSession }),
    ("sender-session", 256, 1, { fuzzSenderSession }),
    ("send-plan", 256, 1, { SendPlanTarget().run }),
    ("invitation", 512, 1, { fuzzInvitation }),
    ("snapshot-store", 256, 1, { SnapshotStoreTarget().run }),
    ("lineage", 256, 1, { fuzzLineage }),
    ("message", 1024, 1, { fuzzMessage }),
    ("frame", 1024, 1, { fuzzFrame }),
    ("record", 512, 1, { fuzzRecord }),
    ("compression", 512, 1, { CompressionTarget().run }),
]

/// The one of this process.
let chosen: Target = {
    let name = unsafe getenv("FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let target = targets.first(where: { $0.name == name }) else {
        fatalError("there is no such target: \(name)")
    }
    return target.make()
}()
