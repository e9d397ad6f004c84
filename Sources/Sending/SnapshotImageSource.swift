// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Digests
package import Platform
internal import SnapshotStore

/// A classic snapshot, from images of its origin and its COW store, without a kernel.
///
/// Its content is the store's where an exception exists, else the origin's. Without a store of its own it is
/// the origin itself, at the time of the image. What changed since a base is what the *base's* store
/// names: its exceptions are the chunks written since that snapshot was taken.
package final class SnapshotImageSource: Source {
    private let origin: AlignedReader
    private let store:
        (reader: AlignedReader, map: ExceptionMap, changes: () -> SnapshotStoreChanges)?
    private let base: (path: String, store: SnapshotStoreReader)?
    package let summary: String
    package let identity: String?
    package let time: UInt64
    package var volumeByteCount: UInt64 { origin.byteCount }

    /// Opens the images.
    ///
    /// - Parameters:
    ///   - storePath: store of the snapshot to send; nothing sends the origin.
    ///   - baseStorePath: store of the snapshot that the standby's generation was made from.
    package init(
        origin originPath: String, store storePath: String?, baseStore baseStorePath: String?
    ) throws(SourceError) {
        do {
            origin = try AlignedReader(path: originPath)
            time = try origin.status().modifiedAt ?? Clock.wall()
            guard let storePath else {
                store = nil
                identity = try origin.status().contentIdentity.map { "origin \($0)" }
                summary = "origin \(originPath)"
                base = try Self.open(baseStorePath, origin.byteCount)
                return
            }
            guard let opened = try Self.open(storePath, origin.byteCount) else {
                throw SourceError.noProof(reason: "no store")
            }
            store = (
                try AlignedReader(path: storePath), try opened.store.exceptionMap(),
                opened.store.changes
            )
            identity = try Self.identity(opened.store, first: opened.store.exceptionCount)
            base = try Self.open(baseStorePath, origin.byteCount)
        } catch let error as SystemCallError {
            throw .unreadable(error)
        } catch let error as SourceError {
            throw error
        } catch {
            throw .invalid(path: storePath ?? originPath, reason: "\(error)")
        }
        summary = "snapshot of \(originPath) in \(storePath ?? "")"
    }

    private static func open(
        _ path: String?, _ volumeByteCount: UInt64
    ) throws -> (path: String, store: SnapshotStoreReader)? {
        guard let path else { return nil }
        do {
            let bytes = try FileBytes(path: path)
            return (path, try SnapshotStoreReader(bytes, volumeByteCount: volumeByteCount))
        } catch {
            throw SourceError.invalid(path: path, reason: "\(error)")
        }
    }

    /// A store is only appended to while its snapshot lives, so that its first records identify it.
    private static func identity(
        _ store: SnapshotStoreReader, first count: UInt64
    ) throws -> String {
        var hasher = SHA256Hasher()
        try store.forEachRecord(first: count) { record in
            var bytes: [UInt8] = []
            bytes.append(littleEndian: record.chunk)
            bytes.append(littleEndian: record.storeChunk)
            hasher.update(bytes)
        }
        return "classic chunk=\(store.header.chunkByteCount) records=\(count) "
            + "digest=\(hasher.finish())"
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        guard let all = Extent(offset: 0, length: volumeByteCount) else { return }
        try body(Change(all, .data))
    }

    package func forEachChange(since baseIdentity: String, _ body: (Change) throws -> Void) throws {
        guard let base else {
            throw SourceError.noProof(
                reason: "the store of the base is needed to know what changed: give --base-store")
        }
        guard
            let field = baseIdentity.split(separator: " ").first(where: { $0.hasPrefix("records=") }
            ),
            let count = UInt64(field.dropFirst("records=".count)), count > 0
        else {
            throw SourceError.noProof(
                reason:
                    "nothing identifies the store of the base: it held no exception when it was sent"
            )
        }
        guard base.store.exceptionCount >= count,
            try Self.identity(base.store, first: count) == baseIdentity
        else {
            throw SourceError.noProof(
                reason: "\(base.path) is not the store of the snapshot that was sent")
        }
        try checkAge(of: base)
        var list = base.store.changes()
        while let change = list.next() { try body(change) }
    }

    /// Refuses a base store that is older than the snapshot's.
    ///
    /// Both stores record what is written to the origin, so that every chunk in the newer snapshot's store is
    /// also in the base's, if the images are of one time.
    private func checkAge(of base: (path: String, store: SnapshotStoreReader)) throws {
        guard let newer = store?.changes else { return }
        var covered = base.store.changes()
        var written = newer()
        var cover = covered.next()
        while let change = written.next() {
            while let extent = cover?.extent, extent.end <= change.extent.offset {
                cover = covered.next()
            }
            guard let extent = cover?.extent, extent.offset <= change.extent.offset,
                extent.end >= change.extent.end
            else {
                throw SourceError.noProof(
                    reason:
                        "\(base.path) is older than the snapshot's store: it does not name what was "
                        + "written at byte \(change.extent.offset)")
            }
        }
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        guard let store else {
            return try origin.read(
                at: extent.offset, into: memory, at: 0, count: Int(extent.length))
        }
        for piece in store.map.pieces(of: extent) {
            let position = Int(piece.extent.offset - extent.offset)
            let count = Int(piece.extent.length)
            if let offset = piece.offset {
                try store.reader.read(at: offset, into: memory, at: position, count: count)
            } else {
                try origin.read(
                    at: piece.extent.offset, into: memory, at: position, count: count)
            }
        }
    }
}
