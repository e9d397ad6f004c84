// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Digests
package import Objects
package import Platform
internal import SnapshotStore
internal import Wire

/// A classic snapshot, read without a kernel from images of its origin and its COW store.
///
/// Its content is in the store for each exception, else in the origin. Without a store of the
/// snapshot, the source is the origin itself at the time of the image. The *base's* store names the
/// changes since a base: its exceptions are the chunks written since that snapshot was taken. It is
/// known to be the base's store, and of this origin, only if the files are unchanged since the base
/// was sent from them.
package final class SnapshotImageSource: Source {
    /// A store and the file that contains it.
    private struct Store {
        let content: AlignedReader
        let file: SourceFile
        let reader: SnapshotStoreReader
        var path: String { content.path }

        init(_ path: String, _ volumeByteCount: UInt64) throws(SourceError) {
            (content, file) = try SourceError.reading { () throws(SystemCallError) in
                let content = try AlignedReader(path: path)
                return (content, try SourceFile(content.file))
            }
            do {
                reader = try SnapshotStoreReader(
                    try FileBytes(content.file), volumeByteCount: volumeByteCount)
            } catch {
                throw .invalid(path: path, reason: "\(error)")
            }
        }

        /// Facts that prove its content; `nil` if there are none.
        var facts: ObjectIdentity.Facts? {
            file.content.isEmpty ? nil : file.object.and(file.content).named("store")
        }
    }

    private let origin: AlignedReader
    private let originFile: SourceFile
    private let store: (store: Store, map: ExceptionMap)?
    private let base: Store?
    package let summary: String
    /// The object is the origin; the files prove the content.
    package let identity: ObjectIdentity
    package let time: UInt64
    package var name: String { origin.path }
    package var volumeByteCount: UInt64 { origin.byteCount }

    /// Opens the images.
    ///
    /// - Parameters:
    ///   - storePath: store of the snapshot to send; `nil` sends the origin.
    ///   - baseStorePath: store of the snapshot of the standby's generation.
    package init(
        origin originPath: String, store storePath: String?, baseStore baseStorePath: String?
    ) throws(SourceError) {
        let opened = try SourceError.reading { () throws(SystemCallError) in
            let origin = try AlignedReader(path: originPath)
            return (
                origin, try SourceFile(origin.file), try origin.status().modifiedAt ?? Clock.wall()
            )
        }
        (origin, originFile, time) = opened
        let size = origin.byteCount
        if let storePath {
            let opened = try Store(storePath, size)
            do { store = (opened, try opened.reader.exceptionMap()) } catch {
                throw .invalid(path: storePath, reason: "\(error)")
            }
            summary = "snapshot of \(originPath) in \(storePath)"
        } else {
            store = nil
            summary = "origin \(originPath)"
        }
        base = try baseStorePath.map { path throws(SourceError) in try Store(path, size) }
        let stored = store.map { $0.store.facts } ?? [:]
        var content: ObjectIdentity.Facts = [:]
        if let stored, !originFile.content.isEmpty {
            content = originFile.content.named("origin").and(stored)
        }
        identity = ObjectIdentity(.classicImage, object: originFile.object, content: content)
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        guard let all = Extent(offset: 0, length: volumeByteCount) else { return }
        try body(Change(all, .data))
    }

    package func proof(since sent: ObjectIdentity?) throws -> ChangeProof {
        guard let base else {
            return .compare(
                "without the store of the snapshot that was sent last, nothing names it"
            )
        }
        try checkAge(of: base)
        guard let sent, let facts = base.facts, sent.kind == identity.kind,
            sent.object == identity.object, !originFile.content.isEmpty,
            sent.content == originFile.content.named("origin").and(facts)
        else {
            return .compare(
                "\(base.path) and the origin are not the files that the last generation was read from, as they were"
            )
        }
        return .list
    }

    package func forEachChange(since sent: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        guard let base else {
            throw SourceError.noProof(.noList, reason: "there is no store of the base")
        }
        var list = base.reader.changes()
        while let change = list.next() { try body(change) }
    }

    /// Refuses a base store that is older than the snapshot's.
    ///
    /// Both stores record writes to the origin, so if the images are of one time, the base's store
    /// contains every chunk of the newer snapshot's store.
    private func checkAge(of base: Store) throws {
        guard let newer = store?.store.reader, let offset = newer.firstUncovered(by: base.reader)
        else {
            return
        }
        throw SourceError.noProof(
            .noList,
            reason:
                "\(base.path) is older than the snapshot's store: it does not name what was written at byte "
                + "\(offset)")
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
                try store.store.content.read(at: offset, into: memory, at: position, count: count)
            } else {
                try origin.read(
                    at: piece.extent.offset, into: memory, at: position, count: count)
            }
        }
    }

    package func confirm() throws {
        try originFile.confirm()
        try store?.store.file.confirm()
        try base?.file.confirm()
    }
}
