// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
package import Objects

/// The identities that the catalog stores as text.
package enum StoredIdentity {
    /// Decodes a text. Of those that version 0.1.0 wrote, it understands the ones of live
    /// snapshots; for every other it returns `nil`.
    package static func decode(_ text: String) -> ObjectIdentity? {
        if let identity = ObjectIdentity(text) { return identity }
        let words = text.split(separator: " ")
        let kinds: [Substring: ObjectIdentity.Kind] = [
            "lvm-thin": .thinSnapshot, "lvm-snapshot": .classicSnapshot,
        ]
        guard let first = words.first, let kind = kinds[first] else { return nil }
        var content: ObjectIdentity.Facts = [:]
        for word in words.dropFirst() {
            let parts = word.split(separator: "=", maxSplits: 1)
            guard parts.count == 2 else { return nil }
            content[parts[0] == "lv" ? LiveFacts.snapshot : String(parts[0])] = String(parts[1])
        }
        var object: ObjectIdentity.Facts = [:]
        object[LiveFacts.origin] = content.removeValue(forKey: LiveFacts.origin)
        return ObjectIdentity(kind, object: object, content: content)
    }
}

/// Names of the facts about live snapshots.
enum LiveFacts {
    /// Object: LVM's ids of the volume group and of the snapshot's volume.
    static let group = "group"
    static let origin = "origin"
    /// Content: LVM's id of the snapshot.
    static let snapshot = "snapshot"
    /// Content of a classic snapshot: the host's boot, and the marks of its two mappings there.
    static let boot = "boot"
    static let mapping = "mapping"
    static let store = "store"
}

extension ObjectIdentity {
    /// LVM's id of a live snapshot; `nil` for anything else.
    var snapshotUUID: String? { content[LiveFacts.snapshot] }
}

extension Replica {
    /// Source of the committed generation; `nil` if unknown.
    var baseIdentity: ObjectIdentity? { base.flatMap(StoredIdentity.decode) }

    /// Source of the unfinished generation; `nil` if unknown.
    var unfinishedIdentity: ObjectIdentity? { transfer.flatMap { StoredIdentity.decode($0.base) } }
}
