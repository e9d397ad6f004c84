// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Facts that distinguish a snapshot from a later one with the same device id.
///
/// LVM reuses the id of a removed device, so the id alone proves nothing.
public struct DeviceIdentity: Hashable, Sendable {
    /// Id of the device in its pool.
    public let deviceID: UInt32
    /// The pool's transaction id when the device was made.
    public let transactionID: UInt64
    /// Value of the pool's clock when the device was made.
    public let creationTime: UInt32
    /// Block of the root of the device's mapping tree; it changes only if the device is written.
    public let mappingRoot: UInt64
    /// Number of mapped blocks.
    public let mappedBlocks: UInt64
}

/// A device of a thin pool.
public struct ThinDevice: Hashable, Sendable {
    /// Id of the device in its pool; below 2^24.
    public let deviceID: UInt32
    /// Block of the root of the device's mapping tree.
    public let mappingRoot: UInt64
    /// Number of mapped blocks.
    public let mappedBlocks: UInt64
    /// The pool's transaction id when the device was made.
    public let transactionID: UInt64
    /// Value of the pool's clock when the device was made.
    public let creationTime: UInt32
    /// Value of the pool's clock when the device last took part in a snapshot, as origin or
    /// snapshot.
    public let snapshottedTime: UInt32

    /// Facts that distinguish this device from others with the same id.
    public var identity: DeviceIdentity {
        DeviceIdentity(
            deviceID: deviceID, transactionID: transactionID, creationTime: creationTime,
            mappingRoot: mappingRoot, mappedBlocks: mappedBlocks)
    }
}

extension NodeStore {
    private static let detailsByteCount: UInt32 = 24

    /// All devices in ascending order; refused unless both trees name the same ones.
    func devices(mappingRoot: UInt64, detailsRoot: UInt64) throws(ThinMetadataError) -> [ThinDevice]
    {
        var roots: [(id: UInt64, root: UInt64)] = []
        let blockCount = self.blockCount
        try forEachEntry(mappingRoot, valueByteCount: 8) {
            (id, bytes, offset) throws(ThinMetadataError.Reason) in
            let root: UInt64 = try bytes.field(at: offset)
            guard root > 0, root < blockCount else {
                throw .wrongPointer(found: root, blockCount: blockCount)
            }
            guard id < 1 << 24 else { throw .keyOutOfRange(found: id, from: 0, upTo: 1 << 24) }
            roots.append((id, root))
        }
        var devices: [ThinDevice] = []
        try forEachEntry(detailsRoot, valueByteCount: Self.detailsByteCount) {
            (id, bytes, offset) throws(ThinMetadataError.Reason) in
            guard devices.count < roots.count, roots[devices.count].id == id else {
                throw .devicesDiffer(deviceID: id)
            }
            devices.append(
                ThinDevice(
                    deviceID: UInt32(id), mappingRoot: roots[devices.count].root,
                    mappedBlocks: try bytes.field(at: offset),
                    transactionID: try bytes.field(at: offset + 8),
                    creationTime: try bytes.field(at: offset + 16),
                    snapshottedTime: try bytes.field(at: offset + 20)))
        }
        if devices.count < roots.count {
            throw ThinMetadataError(
                block: detailsRoot, .devicesDiffer(deviceID: roots[devices.count].id))
        }
        return devices
    }

    /// Passes the entries of a tree with few nodes to the closure: key, node, offset of the value.
    private func forEachEntry(
        _ root: UInt64, valueByteCount: UInt32,
        _ body: (UInt64, RawSpan, Int) throws(ThinMetadataError.Reason) -> Void
    ) throws(ThinMetadataError) {
        // Read one leaf at a time: key order matters here, and a batch arrives in block order.
        for leaf in try leaves(of: root, valueByteCount: valueByteCount) {
            try read(leaf.block) { (bytes) throws(ThinMetadataError.Reason) in
                let header = try NodeHeader(
                    checking: bytes, as: leaf, wantLeaf: true, valueByteCount: valueByteCount)
                for index in 0..<header.entryCount {
                    try body(
                        try header.key(index, in: bytes), bytes,
                        header.valuesOffset + index * Int(valueByteCount))
                }
            }
        }
    }
}
