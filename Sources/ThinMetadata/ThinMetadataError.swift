// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// Why a pool's metadata could not be read or trusted.
public struct ThinMetadataError: Error, Equatable, Sendable {
    /// The violated rule.
    public enum Reason: Error, Equatable, Sendable {
        /// The metadata could not be read.
        case read(ByteSourceError)
        /// The metadata is smaller than one block.
        case tooSmall(byteCount: UInt64)
        /// The superblock is all zero: the pool was never used.
        case uninitialised
        /// The magic number is wrong.
        case wrongMagic(found: UInt64)
        /// The stored checksum does not match the block's content.
        case checksumMismatch(stored: UInt32, computed: UInt32)
        /// The block carries the number of another block.
        case wrongBlockNumber(found: UInt64)
        /// The superblock's version is not 2.
        case wrongVersion(found: UInt32)
        /// The pool's block size, in sectors, is not a multiple of 128 up to 1 GiB.
        case wrongDataBlockSize(sectors: UInt32)
        /// The size of a metadata block, in sectors, is not 8.
        case wrongMetadataBlockSize(sectors: UInt32)
        /// The superblock has flags that this reader does not know.
        case unknownFlags(UInt32)
        /// The kernel has flagged the pool for a check: it lost a transaction.
        case needsCheck
        /// The superblock has incompatible features that this reader does not know.
        case incompatibleFeatures(UInt32)
        /// The pool has no metadata snapshot, or not the requested one.
        case noMetadataSnapshot(found: UInt64)
        /// A pointer names the superblock or a block past the end of the metadata.
        case wrongPointer(found: UInt64, blockCount: UInt64)
        /// The node is of the wrong kind for its place.
        case wrongNodeKind(flags: UInt32, wantLeaf: Bool)
        /// A node has more entries than its capacity, or fewer than any kernel leaves in its place.
        case wrongEntryCount(found: UInt32, minimum: UInt32, maximum: UInt32)
        /// A node's capacity does not match its value size or the block size.
        case wrongCapacity(found: UInt32, valueByteCount: UInt32)
        /// A node's values have the wrong size.
        case wrongValueSize(found: UInt32, expected: UInt32)
        /// A node's keys do not ascend.
        case keysOutOfOrder(index: Int)
        /// A key lies outside the range that the parent node sets.
        case keyOutOfRange(found: UInt64, from: UInt64, upTo: UInt64)
        /// The tree is deeper than the largest pool allows.
        case tooDeep
        /// A mapping points past the end of the data device.
        case wrongDataBlock(found: UInt64, blockCount: UInt64)
        /// The mapping tree and the details tree name different devices.
        case devicesDiffer(deviceID: UInt64)
        /// The pool has no such device.
        case noSuchDevice(deviceID: UInt32)
        /// The device's number of mappings differs from the count in its details.
        case wrongMappingCount(found: UInt64, expected: UInt64)
        /// A field lies past the end of its block.
        case truncated(TruncatedBytes)
    }

    /// Number of the metadata block; `nil` if the reason concerns none.
    public let block: UInt64?
    /// The violated rule, with the values found.
    public let reason: Reason

    /// Makes the error.
    public init(block: UInt64?, _ reason: Reason) {
        self.block = block
        self.reason = reason
    }
}

extension ThinMetadataError: CustomStringConvertible {
    /// One sentence that says where and why, without a capital letter or a full stop.
    public var description: String {
        block.map { "block \($0): \(reason)" } ?? "\(reason)"
    }
}

extension ThinMetadataError.Reason: CustomStringConvertible {
    /// The reason as part of a sentence.
    public var description: String {
        switch self {
        case .read(let error): "\(error)"
        case .tooSmall(let byteCount): "\(byteCount) bytes are too few for a pool's metadata"
        case .uninitialised: "the pool's metadata has not been formatted"
        case .wrongMagic(let found): "not a thin pool's metadata (magic number \(found))"
        case .checksumMismatch(let stored, let computed):
            "checksum mismatch (stored \(hex(stored)), computed \(hex(computed)))"
        case .wrongBlockNumber(let found): "says that it is block \(found)"
        case .wrongVersion(let found): "version \(found) is not supported, only 2 is"
        case .wrongDataBlockSize(let sectors):
            "data block size of \(sectors) sectors is not a multiple of 128 up to 2097152"
        case .wrongMetadataBlockSize(let sectors):
            "metadata block size of \(sectors) sectors is not 8"
        case .unknownFlags(let flags): "unknown flags \(hex(flags))"
        case .needsCheck:
            "the pool needs a check: it has lost a transaction, so no change list can be trusted"
        case .incompatibleFeatures(let flags): "unknown incompatible features \(hex(flags))"
        case .noMetadataSnapshot(let found):
            found == 0
                ? "the pool holds no metadata snapshot"
                : "the pool's metadata snapshot is block \(found), not the one asked for"
        case .wrongPointer(let found, let blockCount):
            "pointer to block \(found) is outside blocks 1 to \(blockCount - 1)"
        case .wrongNodeKind(let flags, let wantLeaf):
            "node flags \(hex(flags)) where \(wantLeaf ? "a leaf" : "an internal node") must be"
        case .wrongEntryCount(let found, let minimum, let maximum):
            "\(found) entries in a node that must have between \(minimum) and \(maximum)"
        case .wrongCapacity(let found, let valueByteCount):
            "room for \(found) entries with values of \(valueByteCount) bytes does not fit a node"
        case .wrongValueSize(let found, let expected):
            "values of \(found) bytes where \(expected) bytes must be"
        case .keysOutOfOrder(let index): "key \(index) is not above the one before it"
        case .keyOutOfRange(let found, let from, let upTo):
            "key \(found) is outside the node's range from \(from) up to \(upTo)"
        case .tooDeep: "the tree is deeper than \(NodeReference.maximumDepth) levels"
        case .wrongDataBlock(let found, let blockCount):
            "mapping to data block \(found) of a pool with \(blockCount)"
        case .devicesDiffer(let deviceID):
            "device \(deviceID) is in only one of the mapping and details trees"
        case .noSuchDevice(let deviceID): "the pool has no device \(deviceID)"
        case .wrongMappingCount(let found, let expected):
            "the device has \(found) mappings where its details say \(expected)"
        case .truncated(let error):
            "\(error.needed) bytes at \(error.offset) are outside the block"
        }
    }

    private func hex(_ value: UInt32) -> String {
        let digits = String(value, radix: 16)
        return "0x" + String(repeating: "0", count: 8 - digits.count) + digits
    }
}
