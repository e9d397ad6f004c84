// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Objects
package import Platform
internal import ThinMetadata
internal import Wire

/// One device of a thin pool, read without a kernel from the pool's metadata and data.
package final class ThinImageSource: Source {
    private let metadata: ThinMetadataReader
    private let metadataPath: String
    private let content: ThinContentMap
    private let data: AlignedReader
    private let files: (metadata: SourceFile, data: SourceFile)
    private let device: UInt32
    package let summary: String
    /// The object is the data; both files and the metadata's facts about the device prove the
    /// content.
    package let identity: ObjectIdentity
    package var name: String { data.path }
    package let time: UInt64
    package let volumeByteCount: UInt64

    /// Opens the pool's images and finds the device.
    package init(
        metadata metadataPath: String, data dataPath: String, device: UInt32,
        volumeByteCount: UInt64, heldByMetadataSnapshot: Bool
    ) throws(SourceError) {
        self.metadataPath = metadataPath
        self.device = device
        self.volumeByteCount = volumeByteCount
        let opened = try SourceError.reading { () throws(SystemCallError) in
            let data = try AlignedReader(path: dataPath)
            return (
                data, try data.status().modifiedAt ?? Clock.wall(), try SourceFile(data.file),
                try SourceFile(File(path: metadataPath))
            )
        }
        (data, time) = (opened.0, opened.1)
        files = (metadata: opened.3, data: opened.2)
        do {
            metadata = try ThinMetadataReader(
                try FileBytes(files.metadata.file),
                root: heldByMetadataSnapshot ? .metadataSnapshot : .current)
            content = try metadata.contentMap(of: device)
            var proof: ObjectIdentity.Facts = [:]
            if !files.data.content.isEmpty, !files.metadata.content.isEmpty {
                proof = files.data.content.named("data")
                    .and(files.metadata.object.and(files.metadata.content).named("metadata"))
                    .and(try Self.facts(of: device, metadata))
            }
            identity = ObjectIdentity(.thinImage, object: files.data.object, content: proof)
        } catch {
            throw .invalid(path: metadataPath, reason: "\(error)")
        }
        summary = "thin device \(device) of \(metadataPath)"
    }

    /// All facts in the metadata about a device.
    private static func facts(
        of device: UInt32, _ metadata: ThinMetadataReader
    ) throws(ThinMetadataError) -> ObjectIdentity.Facts {
        let known = try metadata.device(device).identity
        return [
            "device": "\(known.deviceID)", "transaction": "\(known.transactionID)",
            "created": "\(known.creationTime)", "root": "\(known.mappingRoot)",
            "mapped": "\(known.mappedBlocks)",
            "block": "\(metadata.superblock.dataBlockByteCount)",
        ]
    }

    /// The metadata proves the changes only in the very files that the base was read from: every
    /// pool made by one script has the same numbers in its metadata, and an overwrite in place does
    /// not change them.
    package func proof(since base: ObjectIdentity?) -> ChangeProof {
        guard let base, identity.provesContent, base.kind == identity.kind,
            base.object == identity.object,
            base.content.of("data") == identity.content.of("data"),
            base.content.of("metadata") == identity.content.of("metadata"),
            baseDevice(base) != nil
        else {
            return .compare(
                "the images are not the files that the last generation was read from, so that their metadata prove "
                    + "nothing of it")
        }
        return .list
    }

    private func baseDevice(_ base: ObjectIdentity) -> UInt32? {
        guard let device = base.content["device"].flatMap({ UInt32($0) }),
            metadata.devices.contains(where: { $0.deviceID == device })
        else { return nil }
        return device
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        try wrapping {
            var list = try metadata.fullChanges(of: device, volumeByteCount: volumeByteCount)
            while let change = try list.next() { try body(change) }
        }
    }

    package func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        guard let baseDevice = baseDevice(base) else {
            throw SourceError.noProof(
                .baseLost,
                reason:
                    "\(metadataPath) has no thin device that the standby's generation was made from"
            )
        }
        try wrapping {
            var list = try metadata.changes(from: baseDevice, to: device)
            while let change = try list.next() { try body(change) }
        }
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        let pieces = try wrapping { try content.pieces(of: extent) }
        for piece in pieces {
            let position = Int(piece.extent.offset - extent.offset)
            let count = Int(piece.extent.length)
            if let offset = piece.offset {
                try data.read(at: offset, into: memory, at: position, count: count)
            } else {
                memory.zero(at: position, count: count)
            }
        }
    }

    package func confirm() throws {
        try files.data.confirm()
        try files.metadata.confirm()
    }

    private func wrapping<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as ThinMetadataError {
            throw SourceError.invalid(path: metadataPath, reason: "\(error)")
        }
    }
}
