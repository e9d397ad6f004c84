// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// Where to begin reading a pool's metadata.
public enum MetadataRoot: Hashable, Sendable {
    /// The superblock: the state at the last commit. Only for a pool that is not active.
    case current
    /// The metadata snapshot that the superblock names.
    case metadataSnapshot
    /// The metadata snapshot at this block, as the kernel's status line gave it; refused if the
    /// superblock names another one. The way to read an active pool.
    case metadataSnapshotAt(UInt64)
}

/// Reads the metadata of a thin pool: its devices, their mappings, and what differs between two of
/// them.
///
/// Every block that is used is checked: checksum, own number, kind, and the rules of its place. The
/// first violation ends the reading with an error, and there is no list. Source of the format:
/// drivers/md/dm-thin-metadata.c and drivers/md/persistent-data.
public final class ThinMetadataReader {
    /// The superblock that the trees were taken from.
    public let superblock: Superblock
    /// All devices of the pool, by ascending number.
    public let devices: [ThinDevice]

    private let root: MetadataRoot
    private let store: NodeStore
    private let limits: MappingLimits

    /// Reads the superblock and the lists of devices.
    ///
    /// - Parameter allowsNeedsCheck: read a pool that the kernel wants checked. Good for a look at
    ///   it; a change list of such a pool must not be trusted.
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
        // Not the superblock's number of metadata blocks: the kernel writes that when the pool is made, and never
        // again, however much the metadata device has grown (dm-thin-metadata.c).
        store = everything
        guard superblock.dataBlockSectors == main.dataBlockSectors else {
            throw ThinMetadataError(
                block: block, .wrongDataBlockSize(sectors: superblock.dataBlockSectors))
        }
        // A metadata snapshot has no space map; the pool's data can only have grown since. No
        // device ends past 2^63, which also keeps every product of block and size in range.
        let blockLimit = (1 << 63) / main.dataBlockByteCount
        limits = MappingLimits(
            thinBlockLimit: blockLimit, dataBlockCount: min(main.dataBlockCount, blockLimit))
        devices = try store.devices(
            mappingRoot: superblock.mappingRoot, detailsRoot: superblock.detailsRoot)
    }

    /// The device with a number.
    public func device(_ deviceID: UInt32) throws(ThinMetadataError) -> ThinDevice {
        guard let device = devices.first(where: { $0.deviceID == deviceID }) else {
            throw ThinMetadataError(block: nil, .noSuchDevice(deviceID: deviceID))
        }
        return device
    }

    /// Checks that the superblock still names the metadata snapshot that was read.
    ///
    /// To be called after the last read of an active pool: if somebody has released the snapshot
    /// meanwhile, its blocks may have been used again, and everything read is worthless.
    public func confirmMetadataSnapshot() throws(ThinMetadataError) {
        let main = try store.superblock(0)
        let block = try Self.block(of: root, in: main)
        guard block != 0 else { return }
        guard try store.superblock(block) == superblock else {
            throw ThinMetadataError(block: block, .noMetadataSnapshot(found: 0))
        }
    }

    /// What differs between two devices, in blocks.
    ///
    /// - Parameter includesSame: also what is the same, at the cost of reading both trees whole.
    public func difference(
        from left: UInt32, to right: UInt32, includesSame: Bool = false
    ) throws(ThinMetadataError) -> MappingDifference {
        try MappingDifference(
            store, try device(left).mappingRoot, try device(right).mappingRoot, limits: limits,
            includesSame: includesSame)
    }

    /// What changed from one snapshot to another.
    ///
    /// Exact if nobody writes to either. What only the older one maps is `.unmapped`; with an
    /// external origin that does not mean zeros.
    ///
    /// - Parameter sizes: of the volume at both snapshots, which the metadata does not know. nil lists what differs in the
    ///   pool's blocks, clipped to nothing; then what lies behind the older snapshot's end is the caller's part.
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

    /// Everything there is in a device: what it maps is `.data`, the rest of the volume is
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

    /// Whether nobody has written to a snapshot since it was taken.
    ///
    /// What was there when it was taken carries an earlier time than the snapshot; a block that is written later carries
    /// its own. A device with such blocks may be overwritten in place, which leaves no trace in the metadata. Reads all
    /// mappings of the device.
    public func isUnwritten(_ deviceID: UInt32) throws(ThinMetadataError) -> Bool {
        let creationTime = try device(deviceID).creationTime
        var mappings = try mappings(of: deviceID)
        while let run = try mappings.next() {
            if run.time >= creationTime { return false }
        }
        return true
    }

    /// Where the content of a device is on the data device.
    public func contentMap(of deviceID: UInt32) throws(ThinMetadataError) -> ThinContentMap {
        try ThinContentMap(
            store, try device(deviceID), limits: limits,
            blockByteCount: superblock.dataBlockByteCount)
    }

    /// The block of the superblock to read; 0 for the main one.
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
