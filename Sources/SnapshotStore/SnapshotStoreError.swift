// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// Why a store yields no change list.
public enum SnapshotStoreError: Error, Equatable, Sendable {
    /// The store could not be read.
    case read(ByteSourceError)
    /// The store is smaller than its header and first area.
    case truncated(byteCount: UInt64)
    /// The magic number is zero: the kernel has not formatted the store yet.
    case uninitialised
    /// The magic number is wrong.
    case wrongMagic(found: UInt32)
    /// The kernel has invalidated the snapshot: the store lacks all later records.
    case invalidated
    /// The valid flag is neither 0 nor 1.
    case wrongValidFlag(found: UInt32)
    /// The version is not 1.
    case wrongVersion(found: UInt32)
    /// The chunk size, in sectors, is not a power of two up to 1 GiB.
    case wrongChunkSize(sectors: UInt32)
    /// The list continues past the end of the store.
    case notTerminated(area: UInt64)
    /// Data follows the record that ends the list, in the same area.
    case garbageAfterEnd(area: UInt64, record: UInt64)
    /// A record's data chunk lies outside the store or on a header or metadata chunk.
    case wrongDataChunk(area: UInt64, record: UInt64, found: UInt64)
    /// A record's data chunk is not the next in the order of allocation.
    case outOfOrder(area: UInt64, record: UInt64, found: UInt64, expected: UInt64)
    /// A record's chunk lies past the end of the volume.
    case chunkPastEnd(area: UInt64, record: UInt64, found: UInt64)
    /// A chunk has two records.
    case duplicate(chunk: UInt64)
    /// The store has fewer records than requested: it does not continue an earlier reading.
    case tooFewRecords(found: UInt64, asked: UInt64)
}

extension SnapshotStoreError: CustomStringConvertible {
    /// One sentence that says where and why, without a capital letter or a full stop.
    public var description: String {
        switch self {
        case .read(let error): "\(error)"
        case .truncated(let byteCount):
            "header: \(byteCount) bytes are too few for a header and one area"
        case .uninitialised: "header: the store has not been formatted"
        case .wrongMagic(let found):
            "header: not a snapshot store (magic number 0x\(String(found, radix: 16)))"
        case .invalidated:
            "header: the kernel has invalidated this snapshot, so its list of changes is incomplete"
        case .wrongValidFlag(let found): "header: valid flag is \(found), not 0 or 1"
        case .wrongVersion(let found): "header: version \(found) is not supported, only 1 is"
        case .wrongChunkSize(let sectors):
            "header: chunk size of \(sectors) sectors is not a power of two up to 2097152"
        case .notTerminated(let area): "area \(area): the list runs past the end of the store"
        case .garbageAfterEnd(let area, let record):
            "area \(area), record \(record): not zero, although the list has ended before"
        case .wrongDataChunk(let area, let record, let found):
            "area \(area), record \(record): chunk \(found) of the store cannot hold data"
        case .outOfOrder(let area, let record, let found, let expected):
            "area \(area), record \(record): data chunk \(found) where \(expected) is the next one "
                + "(kernels older than 3.14 allocated in another order; that must be allowed "
                + "explicitly)"
        case .chunkPastEnd(let area, let record, let found):
            "area \(area), record \(record): chunk \(found) lies past the end of the volume"
        case .duplicate(let chunk): "chunk \(chunk) of the volume has more than one record"
        case .tooFewRecords(let found, let asked):
            "the store has \(found) records, fewer than the \(asked) of an earlier reading"
        }
    }
}
