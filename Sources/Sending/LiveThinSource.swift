// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import LVM
package import Objects
package import Platform
internal import ThinMetadata
internal import Wire

/// A snapshot in a thin pool of this host: the pool's metadata names the changes, the snapshot's
/// device holds the content.
package final class LiveThinSource: Source {
    private let snapshot: LogicalVolume
    private let group: VolumeGroup
    private let pool: LivePool
    private let reader: AlignedReader
    /// Whether unmapped blocks may belong to an external origin.
    private let hasExternalOrigin: Bool
    private let disks: LiveDisks
    package let summary: String
    package let identity: ObjectIdentity
    package var name: String { snapshot.fullName }
    package let time: UInt64
    package var volumeByteCount: UInt64 { reader.byteCount }

    /// Opens an active snapshot.
    ///
    /// - Parameters:
    ///   - object: facts of the snapshot's volume.
    ///   - time: when the snapshot was taken, in nanoseconds since 1970-01-01 UTC.
    package init(
        _ snapshot: LogicalVolume, of object: ObjectIdentity.Facts, in group: VolumeGroup,
        pool: LivePool, time: UInt64
    ) throws {
        self.snapshot = snapshot
        self.group = group
        self.pool = pool
        self.time = time
        guard let device = snapshot.device else {
            throw SourceError.invalid(path: snapshot.fullName, reason: "it is not active")
        }
        hasExternalOrigin = pool.hasExternalOrigin
        let path = try device.path()
        reader = try SourceError.reading { () throws(SystemCallError) in
            try AlignedReader(path: path)
        }
        summary = "thin snapshot \(snapshot.fullName)"
        disks = try LiveDisks(under: snapshot, in: group)
        try disks.flush()
        identity = ObjectIdentity(
            .thinSnapshot, object: object,
            content: try pool.read { try pool.facts(of: snapshot, in: $0) })
    }

    package func proof(since base: ObjectIdentity?) throws -> ChangeProof {
        guard let base, base.kind == identity.kind, base.snapshotUUID != nil else {
            return .compare(
                "the last generation was not made from a snapshot in a thin pool of this host")
        }
        return .list
    }

    /// Only flushes the disks: nothing writes to the snapshot.
    package func confirm() throws { try disks.flush() }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        try reading { metadata, device in
            var list = try metadata.fullChanges(of: device, volumeByteCount: volumeByteCount)
            try forward({ try list.next() }, to: body)
        }
    }

    package func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        let older = try group.base(base.snapshotUUID ?? "", of: snapshot)
        try reading { metadata, device in
            guard try pool.facts(of: older, in: metadata) == base.content else {
                throw SourceError.noProof(
                    .baseLost,
                    reason:
                        "\(older.fullName) is no longer what was sent: it was written, or the thin pool was "
                        + "repaired")
            }
            var list = try metadata.changes(
                from: try pool.device(of: older, in: metadata).deviceID, to: device)
            try forward({ try list.next() }, to: body)
        }
    }

    private func reading(_ body: (ThinMetadataReader, UInt32) throws -> Void) throws {
        try pool.read { metadata in
            guard
                try pool.facts(of: snapshot, in: metadata) == identity.content
                    || !snapshot.isReadOnly
            else {
                throw SourceError.noProof(
                    .sourceChanged, reason: "\(snapshot.fullName) was written meanwhile")
            }
            try body(metadata, try pool.device(of: snapshot, in: metadata).deviceID)
        }
    }

    private func forward(
        _ next: () throws -> Change?, to body: (Change) throws -> Void
    ) throws {
        var coalescer = ChangeCoalescer(volumeByteCount: volumeByteCount)
        while var change = try next() {
            if hasExternalOrigin { change.kind = .data }
            if let done = coalescer.add(change) { try body(done) }
        }
        if let last = coalescer.finish() { try body(last) }
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        try reader.read(at: extent.offset, into: memory, at: 0, count: Int(extent.length))
    }
}
