// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import GRDB
internal import Platform
package import Wire

/// The lasting state of a standby: its peers, its volumes with what they hold, and its events.
///
/// Several processes may have the same catalog open. Every function is one transaction, durable
/// when it returns.
package final class StandbyCatalog: Sendable {
    let store: Store
    private let clock: @Sendable () -> UInt64
    let eventLimit: @Sendable (StandbyEvent.Kind) -> UInt64

    /// Opens the catalog in `directory`, whose parent must exist, and makes it if it is missing.
    ///
    /// - Parameters:
    ///   - eventLimit: how many events of each kind to keep for each volume.
    ///   - clock: nanoseconds since 1970-01-01 UTC; used only for recorded times.
    package init(
        directory: String,
        eventLimit: @escaping @Sendable (StandbyEvent.Kind) -> UInt64 = { $0.limit },
        clock: @escaping @Sendable () -> UInt64 = Clock.wall
    ) throws(CatalogError) {
        store = try Store(
            directory: directory, purpose: .standby, migrator: StandbySchema.migrator)
        self.clock = clock
        self.eventLimit = eventLimit
    }

    /// Opens the catalog in `directory` if nothing can be written.
    package init(reading directory: String) throws(CatalogError) {
        store = try Store(reading: directory, purpose: .standby, migrator: StandbySchema.migrator)
        clock = Clock.wall
        eventLimit = { $0.limit }
    }

    /// How the catalog was read, if it cannot be written; otherwise `nil`.
    package var reading: CatalogReading? { store.doubt }

    /// Current time by `clock`.
    var now: UInt64 { clock() }

    // MARK: Peers

    /// Adds a peer.
    ///
    /// - Throws: `conflict` if the key is already known.
    package func addPeer(_ key: KeyID, name: String) throws(CatalogError) {
        try store.write("add peer \(name)") { db in
            guard try !hasPeer(key, db) else {
                throw CatalogError.Kind.conflict("a peer with this key is known already")
            }
            try StandbyPeer(key: key, name: name, addedAt: now).insert(into: db)
            try record(.peerAdded, nil, "\(name), \(key)", db)
        }
    }

    /// All peers, in the order in which they were added.
    package func peers() throws(CatalogError) -> [StandbyPeer] {
        try store.read("list the peers") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM peer ORDER BY added_at, key")
                .map { try StandbyPeer($0) }
        }
    }

    /// Removes a peer. Its volumes stay without a peer, and a running session of the peer is
    /// fenced.
    package func removePeer(_ key: KeyID) throws(CatalogError) {
        try store.write("remove peer \(key)") { db in
            guard try hasPeer(key, db) else { throw CatalogError.Kind.notFound("peer \(key)") }
            let rows = try Row.fetchAll(
                db, sql: "SELECT * FROM volume WHERE peer = ?", arguments: [key.stored])
            for row in rows {
                var volume = try StandbyVolume(row)
                volume.peer = nil
                volume.fence = try nextFence(db)
                try volume.update(in: db)
            }
            try db.execute(sql: "DELETE FROM peer WHERE key = ?", arguments: [key.stored])
            try record(.peerRemoved, nil, "\(key)", db)
        }
    }

    func hasPeer(_ key: KeyID, _ db: Database) throws -> Bool {
        try Bool.fetchOne(
            db, sql: "SELECT EXISTS (SELECT 1 FROM peer WHERE key = ?)", arguments: [key.stored])
            ?? false
    }

    // MARK: Volumes

    /// Adds an empty volume.
    ///
    /// - Parameters:
    ///   - mayOverwrite: whether a first copy may replace the target's content.
    ///   - claim: takes the target within the transaction. It receives the other volumes, throws to
    ///     refuse, and returns the target's identity as text.
    /// - Throws: `conflict` if the name or the target path is in use, `notFound` if the peer is
    ///   unknown.
    package func createVolume(
        _ name: VolumeName, peer: KeyID?, targetPath: String, targetKind: TargetKind,
        mayOverwrite: Bool = false, presence: String? = nil,
        claim: ([StandbyVolume]) throws -> String
    ) throws(CatalogError) {
        try store.write("add volume \(name)") { db in
            if try StandbyVolume.find(name, in: db) != nil {
                throw CatalogError.Kind.conflict("there is a volume of this name")
            }
            try refuseTakenPath(targetPath, db)
            if let peer, try !hasPeer(peer, db) {
                throw CatalogError.Kind.notFound("peer \(peer)")
            }
            var volume = StandbyVolume(
                name: name, peer: peer, targetPath: targetPath, targetKind: targetKind,
                targetIdentity: try claim(try allVolumes(db)), addedAt: now)
            volume.mayOverwrite = mayOverwrite
            volume.targetPresence = presence
            try volume.insert(into: db)
            try record(.volumeAdded, name, "target \(targetPath)", db)
        }
    }

    /// All volumes, sorted by name.
    package func volumes() throws(CatalogError) -> [StandbyVolume] {
        try store.read("list the volumes") { db in try allVolumes(db) }
    }

    func allVolumes(_ db: Database) throws -> [StandbyVolume] {
        try Row.fetchAll(db, sql: "SELECT * FROM volume ORDER BY name")
            .map { try StandbyVolume($0) }
    }

    func refuseTakenPath(_ path: String, _ db: Database) throws {
        let user = try String.fetchOne(
            db, sql: "SELECT name FROM volume WHERE target_path = ?", arguments: [path])
        guard let user else { return }
        throw CatalogError.Kind.conflict("\(path) is the target of volume \(user)")
    }

    /// Names of the volumes in a state, in order.
    package func volumes(in state: VolumeState) throws(CatalogError) -> [VolumeName] {
        try store.read("list the volumes that are \(state)") { db in
            try Row.fetchAll(
                db, sql: "SELECT name FROM volume WHERE state = ? ORDER BY name",
                arguments: [state.rawValue]
            ).map { try Columns($0).volumeName("name") }
        }
    }

    /// The volume of this name, whoever its peer is: for local use only.
    package func volume(_ name: VolumeName) throws(CatalogError) -> StandbyVolume? {
        try store.read("find volume \(name)") { db in try StandbyVolume.find(name, in: db) }
    }

    /// The volume of this name if it is pinned to `peer`: the only lookup for requests from the
    /// network.
    package func volume(
        _ name: VolumeName, of peer: KeyID
    ) throws(CatalogError) -> StandbyVolume? {
        try store.read("find volume \(name)") { db in
            try Row.fetchOne(
                db, sql: "SELECT * FROM volume WHERE name = ? AND peer = ?",
                arguments: [name.text, peer.stored]
            ).map { try StandbyVolume($0) }
        }
    }
}
