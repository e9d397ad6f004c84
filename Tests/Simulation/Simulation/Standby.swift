// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Platform
import Receiving
import Wire

/// What an invariant found.
struct Violation: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A standby in a directory, with its targets beside it; everything but the network is the real thing.
final class ModelStandby {
    let root: String
    var state: String { root + "/standby" }
    private(set) var home: StandbyHome

    /// Opens what is there.
    init(_ root: String) throws {
        self.root = root
        home = try StandbyHome(path: root + "/standby")
    }

    func target(_ name: VolumeName) -> String { "\(root)/\(name).copy" }

    /// Registers a volume whose target holds `content`.
    func add(_ name: VolumeName, _ peer: KeyID, _ content: [UInt8]) throws {
        let file = try File(path: target(name), [.write, .createNew])
        try file.write(content, at: 0)
        let status = try file.status()
        if try home.catalog.peers().isEmpty { try home.catalog.addPeer(peer, name: "model") }
        try home.catalog.createVolume(
            name, peer: peer, targetPath: target(name), targetKind: .file, mayOverwrite: true
        ) { _ in status.identity }
    }

    // MARK: A session

    /// A session of the peer's about a volume; nothing is said yet.
    func connect(
        _ peer: KeyID, _ volume: VolumeName, over network: Network = Network()
    ) -> Conversation {
        Conversation(home, peer, volume, network)
    }

    /// Everything from OPEN to COMMIT, from where the standby is.
    @discardableResult
    func send(_ generation: ModelGeneration, to name: VolumeName, _ peer: KeyID) throws -> Bool {
        let session = connect(peer, name)
        defer { session.close() }
        let state = try session.open()
        if state.committedID == generation.record.id, state.state == .consistent { return true }
        if let root = generation.begin.comparedRoot, state.transfer != generation.begin.transfer {
            let found = try session.compare(
                Compare(
                    mode: .read, algorithm: ModelLineage.algorithm,
                    volumeSize: UInt64(generation.content.count), firstPage: 0, pageCount: 0,
                    tagKey: generation.begin.tagKey))
            guard found == root else { throw Violation("the target is not what was compared") }
        }
        return try session.transfer(generation)
    }

    // MARK: Recovery

    /// What a start of the daemon does for a volume; returns what the catalog says then.
    func recover(_ name: VolumeName) throws -> StandbyVolume {
        guard let writer = try VolumeWriter(home, name) else {
            throw Violation("somebody has the volume")
        }
        try writer.recover()
        return writer.volume
    }
}

extension ModelStandby {
    func promote(_ name: VolumeName) throws {
        guard let writer = try VolumeWriter(home, name) else {
            throw Violation("somebody has the volume")
        }
        try writer.promote()
    }
}
