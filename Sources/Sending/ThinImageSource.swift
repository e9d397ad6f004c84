// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Platform
internal import ThinMetadata

/// One device of a thin pool, from the pool's metadata and data, without a kernel.
package final class ThinImageSource: Source {
    private let metadata: ThinMetadataReader
    private let metadataPath: String
    private let content: ThinContentMap
    private let data: AlignedReader
    private let device: UInt32
    package let summary: String
    package let identity: String?
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
        do {
            data = try AlignedReader(path: dataPath)
            time = try data.status().modifiedAt ?? Clock.wall()
        } catch {
            throw .unreadable(error)
        }
        do {
            metadata = try ThinMetadataReader(
                try FileBytes(path: metadataPath),
                root: heldByMetadataSnapshot ? .metadataSnapshot : .current)
            content = try metadata.contentMap(of: device)
            identity =
                try Self.isPristine(device, in: metadata)
                ? Self.identity(
                    try metadata.device(device).identity, metadata.superblock.dataBlockByteCount)
                : nil
        } catch {
            throw .invalid(path: metadataPath, reason: "\(error)")
        }
        summary = "thin device \(device) of \(metadataPath)"
    }

    /// Whether a device is a snapshot that was never written.
    ///
    /// What was there when a snapshot was taken carries an earlier time than the snapshot; a block that is
    /// written later carries its own. A device with such blocks may be overwritten in place, which leaves
    /// no trace in the metadata: it cannot be recognised again, and no change list can start from it.
    private static func isPristine(
        _ device: UInt32, in metadata: ThinMetadataReader
    ) throws(ThinMetadataError) -> Bool {
        let creationTime = try metadata.device(device).creationTime
        var mappings = try metadata.mappings(of: device)
        while let run = try mappings.next() {
            if run.time >= creationTime { return false }
        }
        return true
    }

    /// Everything that the metadata knows of a device. A write to the device after its snapshot was taken, or a
    /// device id that was used again, changes at least one of these.
    private static func identity(_ device: DeviceIdentity, _ blockByteCount: UInt64) -> String {
        "thin device=\(device.deviceID) transaction=\(device.transactionID) "
            + "created=\(device.creationTime) root=\(device.mappingRoot) "
            + "mapped=\(device.mappedBlocks) block=\(blockByteCount)"
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        try wrapping {
            var list = try metadata.fullChanges(of: device, volumeByteCount: volumeByteCount)
            while let change = try list.next() { try body(change) }
        }
    }

    package func forEachChange(since base: String, _ body: (Change) throws -> Void) throws {
        guard let field = base.split(separator: " ").first(where: { $0.hasPrefix("device=") }),
            let baseDevice = UInt32(field.dropFirst("device=".count))
        else {
            throw SourceError.noProof(
                reason:
                    "the standby's generation was not made from a thin snapshot that nobody has "
                    + "written, so that nothing tells what changed since")
        }
        guard let found = metadata.devices.first(where: { $0.deviceID == baseDevice }) else {
            throw SourceError.noProof(
                reason: "\(metadataPath) no longer has thin device \(baseDevice), the base")
        }
        guard Self.identity(found.identity, metadata.superblock.dataBlockByteCount) == base else {
            throw SourceError.noProof(
                reason: "thin device \(baseDevice) of \(metadataPath) is no longer what was sent: "
                    + "it was written, or its id was used again")
        }
        try wrapping {
            var list = try metadata.changes(
                from: baseDevice, to: device, volumeByteCount: volumeByteCount)
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

    private func wrapping<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as ThinMetadataError {
            throw SourceError.invalid(path: metadataPath, reason: "\(error)")
        }
    }
}
