// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
package import LVM
package import Wire

/// A snapshot that this program has made, recognised by the tags that the command set when it made
/// it.
package struct OwnSnapshot {
    package let volume: LogicalVolume
    /// The standby that the snapshot is kept for.
    package let receiver: ReceiverName
    /// Name of the volume on the standby.
    package let name: VolumeName
}

/// The tags on our snapshots.
enum SnapshotTags {
    private static let mark = "blockferry"
    private static let receiver = "blockferry.to="
    private static let volume = "blockferry.volume="
    private static let source = "blockferry.source="

    /// The tag that marks the snapshots of this source host.
    static func ofSource(_ key: KeyID) -> String {
        source + "\(key.digest)".prefix(16)
    }

    /// The tags of a new snapshot.
    static func new(
        _ receiverName: ReceiverName, _ volumeName: VolumeName, _ key: KeyID
    ) -> [String] {
        [mark, receiver + receiverName.text, volume + volumeName.text, ofSource(key)]
    }

    /// Recognises by its tags a volume that this source host once made as a snapshot.
    static func own(_ lv: LogicalVolume, _ key: KeyID) -> OwnSnapshot? {
        func value(_ prefix: String) -> String? {
            lv.tags.first { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
        }
        // `SnapshotProof` decides whether it may be removed.
        guard lv.tags.contains(mark), lv.tags.contains(ofSource(key)),
            let receiver = value(receiver).flatMap({ ReceiverName($0) }),
            let name = value(volume).flatMap({ VolumeName($0) })
        else { return nil }
        return OwnSnapshot(volume: lv, receiver: receiver, name: name)
    }
}
