// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Asks a parser or a machine with one input; a trap is a finding.
typealias Target = @Sendable ([UInt8]) -> Void

/// What can be fuzzed, and how long an input is at most: what is read as decisions needs few bytes.
///
/// The environment variable FUZZ_TARGET chooses one by its name, and only that one is made. Those
/// that take longest come first.
let targets: [(name: String, length: Int, make: @Sendable () -> Target)] = [
    ("identity", 128, { IdentityTarget().run }),
    ("map-file", 256, { MapFileTarget().run }),
    ("handshake", 256, { HandshakeTarget().run }),
    ("lvm", 512, { fuzzLVM }),
    ("thin-metadata", 256, { ThinMetadataTarget().run }),
    ("tag-map", 512, { fuzzTagMap }),
    ("staging-log", 1024, { fuzzStagingLog }),
    ("export", 1024, { fuzzExport }),
    ("transfer", 256, { fuzzTransfer }),
    ("receiver-session", 256, { fuzzReceiverSession }),
    ("sender-session", 256, { fuzzSenderSession }),
    ("device-mapper", 256, { fuzzDeviceMapper }),
    ("host-values", 256, { fuzzHostValues }),
    ("send-plan", 256, { SendPlanTarget().run }),
    ("helper", 512, { fuzzHelper }),
    ("invitation", 512, { fuzzInvitation }),
    ("snapshot-store", 256, { SnapshotStoreTarget().run }),
    ("object-identity", 512, { fuzzObjectIdentity }),
    ("lineage", 256, { fuzzLineage }),
    ("message", 1024, { fuzzMessage }),
    ("frame", 1024, { fuzzFrame }),
    ("record", 512, { fuzzRecord }),
    ("compression", 512, { CompressionTarget().run }),
]

/// The one of this process.
let chosen: Target = {
    let name = unsafe getenv("FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let target = targets.first(where: { $0.name == name }) else {
        fatalError("there is no such target: \(name)")
    }
    return target.make()
}()
