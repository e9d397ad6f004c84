// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// Where to start reading a pool's metadata.
public enum MetadataRoot: Hashable, Sendable {
    /// The superblock, with the state at the last commit. Use it only for an inactive pool.
    case current
    /// The metadata snapshot that the superblock names.
    case metadataSnapshot
    /// The metadata snapshot at this block, as the kernel's status line reports it; refused if the
    /// superblock names another one. Use it for an active pool.
    case metadataSnapshotAt(UInt64)
}

/// Reads the metadata of a thin pool: its devices, their mappings, and the differences between two
/// devices.
///
/// It checks every block that it uses: checksum, own number, kind, and the rules for its place. The
/// first violation throws, and there is no list. Source of the format:
/// drivers/md/dm-thin-metadata.c and drivers/md/persistent-data.
public final class ThinMetadataReader {
    /// The superblock that names the trees.
    public let superblock: Superblock
    /// All devices of the pool, in ascending order of their ids.
    public let devices: [ThinDevice]

    private let root: MetadataRoot
    private let store: NodeStore
    private let limits: MappingLimits

    /// Reads the superblock and the lists of devices.
    ///
    /// - Parameter allowsNeedsCheck: read a pool even if the kernel wants it checked. Use it to
    ///   inspect the pool; do not trust a change list of it.
    public init(
        _ source: any ByteSource, root: MetadataRoot = .current, allowsNeedsCheck: Bool = false
    ) throws(ThinMetadataError) {
        self.root = root
        let wholeBlocks = source.byteCount / UInt64(MetadataBlock.byteCount)
        guard wholeBlocks > 0 else {
            throw ThinMetadataError(block: nil, .tooSmall(byteCount: source.byteCount))
        }
        let everything = NodeStore(source, blockCount: wholeBlocks)
        let main = try everything.superblock(0)
        if main.needsCheck, !allowsNeedsCheck { throw ThinMetadataError(block: 0, .needsCheck) }
        let block = try Self.block(of: root, in: main)
        superblock = block == 0 ? main : try everything.superblock(block)
        // Do not use the superblock's number of metadata blocks: the kernel writes it when it makes
        // the pool and never updates it when the metadata device grows (dm-thin-metadata.c).
        store = everything
        guard superblock.dataBlockSectors == main.dataBlockSectors else {
            throw ThinMetadataError(
                block: block, .wrongDataBlockSize(sectors: superblock.dataBlockSectors))
        }
        // A metadata snapshot has no space map, and the data device may have grown since. No device
        // ends past 2^63, which also keeps every product of block and size in range.
        let blockLimit = (1 << 63) / main.dataBlockByteCount
        limits = MappingLimits(
            thinBlockLimit: blockLimit, dataBlockCount: min(main.dataBlockCount, blockLimit))
        devices = try store.devices(
            mappingRoot: superblock.mappingRoot, detailsRoot: superblock.detailsRoot)
    }

    /// The device with this id.
    public func device(_ deviceID: UInt32) throws(ThinMetadataError) -> ThinDevice {
        guard let device = devices.first(where: { $0.deviceID == deviceID }) else {
            throw ThinMetadataError(block: nil, .noSuchDevice(deviceID: deviceID))
        }
        return device
    }

    /// Checks that the superblock still names the metadata snapshot that was read.
    ///
    /// Call it after the last read of an active pool. If the snapshot was released meanwhile, its
    /// blocks may have been reused: discard everything that was read.
    public func confirmMetadataSnapshot() throws(ThinMetadataError) {
        let main = try store.superblock(0)
        let block = try Self.block(of: root, in: main)
        guard block != 0 else { return }
        guard try store.superblock(block) == superblock else {
            throw ThinMetadataError(block: block, .noMetadataSnapshot(found: 0))
        }
    }

    /// The differences between two devices, in blocks.
    ///
    /// - Parameter includesSame: also report shared blocks, which requires reading both trees in
    ///   full.
    public func difference(
        from left: UInt32, to right: UInt32, includesSame: Bool = false
    ) throws(ThinMetadataError) -> MappingDifference {
        try MappingDifference(
            store, try device(left).mappingRoot, try device(right).mappingRoot, limits: limits,
            includesSame: includesSame)
    }

    /// The changes from one snapshot to another.
    ///
    /// The list is exact if neither snapshot is written. Blocks that only the older one maps are
    /// `.unmapped`; with an external origin they need not read as zeros.
    ///
    /// - Parameter sizes: sizes of the volume at both snapshots, which the metadata does not
    ///   contain. `nil` returns the differences in whole pool blocks without clipping; the caller
    ///   then adds the part past the older snapshot's end.
    public func changes(
        from left: UInt32, to right: UInt32, sizes: VolumeSizes? = nil
    ) throws(ThinMetadataError) -> ThinChanges {
        let grown =
            if let sizes, sizes.hasGrown {
                try fullChanges(of: right, volumeByteCount: sizes.newer)
            } else { ThinFullChanges?.none }
        return ThinChanges(
            try difference(from: left, to: right), superblock.dataBlockByteCount, sizes,
            grown: grown)
    }

    /// The whole device as a change list: mapped blocks are `.data`, the rest of the volume is
    /// `.unmapped`.
    public func fullChanges(
        of deviceID: UInt32, volumeByteCount: UInt64
    ) throws(ThinMetadataError) -> ThinFullChanges {
        ThinFullChanges(
            try mappings(of: deviceID), superblock.dataBlockByteCount, volumeByteCount)
    }

    /// The mappings of a device.
    public func mappings(of deviceID: UInt32) throws(ThinMetadataError) -> Mappings {
        try Mappings(store, try device(deviceID), limits: limits)
    }

    /// Whether a snapshot has not been written since it was taken.
    ///
    /// Blocks from before the snapshot carry an earlier time than the snapshot; a block written
    /// later carries its own. A device with such blocks can be overwritten in place, which leaves
    /// no trace in the metadata. Reads all mappings of the device.
    public func isUnwritten(_ deviceID: UInt32) throws(ThinMetadataError) -> Bool {
        let creationTime = try device(deviceID).creationTime
        var mappings = try mappings(of: deviceID)
        while let run = try mappings.next() {
            if run.time >= creationTime { return false }
        }
        return true
    }

    /// Locates the content of a device on the data device.
    public func contentMap(of deviceID: UInt32) throws(ThinMetadataError) -> ThinContentMap {
        try ThinContentMap(
            store, try device(deviceID), limits: limits,
            blockByteCount: superblock.dataBlockByteCount)
    }

    /// The block of the superblock to read; 0 is the main one.
    private static func block(
        of root: MetadataRoot, in main: Superblock
    ) throws(ThinMetadataError) -> UInt64 {
        let found = main.metadataSnapshot
        switch root {
        case .current: return 0
        case .metadataSnapshot where found != 0: return found
        case .metadataSnapshotAt(let block) where found != 0 && found == block: return found
        default: throw ThinMetadataError(block: 0, .noMetadataSnapshot(found: found))
        }
    }
}

extension NodeStore {
    /// Reads and checks a superblock.
    func superblock(_ block: UInt64) throws(ThinMetadataError) -> Superblock {
        try read(block) { (bytes) throws(ThinMetadataError.Reason) in
            try Superblock(decoding: bytes, number: block)
        }
    }
}
