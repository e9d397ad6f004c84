// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// One record of a store: the location of a chunk's old content.
public struct ExceptionRecord: Hashable, Sendable {
    /// The chunk of the volume.
    public let chunk: UInt64
    /// The chunk of the store that holds its content.
    public let storeChunk: UInt64
}

/// The order of allocation that a store must show.
public enum AllocationOrder: Sendable {
    /// Data chunks 2, 3, 4, … in the order of the records, past the metadata areas, as every kernel
    /// since 3.14 writes them. This redundancy reveals nearly all damage to the second half of a
    /// record.
    case sequential
    /// Any order, as older kernels may have written it.
    case any
}

/// Reads the store of a classic (copy-on-write) snapshot: the chunks that were written since the
/// snapshot was taken.
///
/// `init` reads and checks the whole list; afterwards only another read can fail. The format has no
/// checksum. The reader refuses everything that a kernel cannot have written;
/// docs/formats/snapshot-store.md lists the damage that it cannot detect. Source of the format:
/// drivers/md/dm-snap-persistent.c.
public final class SnapshotStoreReader {
    /// The decoded header of the store.
    public let header: StoreHeader
    /// Number of records.
    public private(set) var exceptionCount: UInt64 = 0
    /// Size of the volume in bytes; `nil` if the caller does not know it.
    public let volumeByteCount: UInt64?

    private let source: any ByteSource
    private let order: AllocationOrder
    private let chunkLimit: UInt64
    private var chunks = ChunkSet(chunkLimit: 0)

    /// Reads and checks a store.
    ///
    /// - Parameter volumeByteCount: size of the snapshot in bytes; the reader checks the records
    ///   against it and clips the list to it.
    public init(
        _ source: any ByteSource, volumeByteCount: UInt64? = nil,
        order: AllocationOrder = .sequential
    ) throws(SnapshotStoreError) {
        guard source.byteCount >= 1024 else { throw .truncated(byteCount: source.byteCount) }
        self.source = source
        self.order = order
        self.volumeByteCount = volumeByteCount
        let first = try source.parse(at: 0, count: 16) { (bytes) throws(SnapshotStoreError) in
            try StoreHeader(decoding: bytes)
        }
        header = first
        // A chunk must end below 2^63, the kernel's own limit.
        chunkLimit = min(
            (1 << 63) / first.chunkByteCount,
            volumeByteCount.map { $0 / first.chunkByteCount + ($0 % first.chunkByteCount).signum() }
                ?? .max)
        guard source.byteCount / first.chunkByteCount >= 2 else {
            throw .truncated(byteCount: source.byteCount)
        }
        try readAll()
    }

    /// Passes the first `count` records to `body`, in their order in the store.
    ///
    /// A snapshot's list only grows, so a later reading must begin with the records of an earlier
    /// one. Digest the fields here to prove that.
    public func forEachRecord(
        first count: UInt64 = .max, _ body: (ExceptionRecord) -> Void
    ) throws(SnapshotStoreError) {
        var left = count
        try scan { (record) throws(SnapshotStoreError) in
            guard left > 0 else { return false }
            left -= 1
            body(record)
            return true
        }
        if count != .max, left > 0 { throw .tooFewRecords(found: count - left, asked: count) }
    }

    /// The changed extents of the volume, all of kind `.data`.
    ///
    /// - Parameter newerByteCount: size of the volume in bytes at the newer point in time, if it
    ///   differs from the snapshot's. It requires `volumeByteCount`, the snapshot's own size.
    public func changes(newerByteCount: UInt64? = nil) -> SnapshotStoreChanges {
        let own = volumeByteCount ?? .max
        return SnapshotStoreChanges(
            chunks: chunks, chunkByteCount: header.chunkByteCount,
            sizes: VolumeSizes(older: own, newer: newerByteCount ?? own))
    }

    /// Checks that another store's list covers this one, up to the end of the other's snapshot.
    ///
    /// Success proves that the other list, `older.changes()`, names every difference between the
    /// two snapshots. The store of the snapshot that was taken first names everything written
    /// since: if that is this store, the other list contains all of it; if it is the other, its
    /// list is complete by itself. Read `older` after this one: both may grow.
    ///
    /// - Returns: the first byte of this list that the other does not cover, or `nil` if it covers
    ///   all.
    public func firstUncovered(by older: SnapshotStoreReader) -> UInt64? {
        var covered = older.changes()
        var written = changes(
            newerByteCount: older.volumeByteCount.map { min($0, volumeByteCount ?? $0) })
        var cover = covered.next()
        while let change = written.next() {
            while let extent = cover?.extent, extent.end <= change.extent.offset {
                cover = covered.next()
            }
            guard let extent = cover?.extent, extent.offset <= change.extent.offset,
                extent.end >= change.extent.end
            else { return change.extent.offset }
        }
        return nil
    }

    /// Locates the content of the snapshot: in the store for each chunk with a record, otherwise in
    /// the origin.
    ///
    /// Takes 16 bytes of memory per record.
    public func exceptionMap() throws(SnapshotStoreError) -> ExceptionMap {
        var records: [ExceptionRecord] = []
        records.reserveCapacity(Int(exceptionCount))
        try forEachRecord(first: exceptionCount) { records.append($0) }
        return ExceptionMap(records, chunkByteCount: header.chunkByteCount)
    }

    /// Reads everything. Without a volume size that bounds the bitmap, an earlier pass finds the
    /// highest chunk.
    private func readAll() throws(SnapshotStoreError) {
        var limit = chunkLimit
        var count: UInt64?
        if limit > ChunkSet.maximumBitmapBits {
            var highest: UInt64 = 0
            var found: UInt64 = 0
            try forEachRecord { record in
                highest = max(highest, record.chunk)
                found += 1
            }
            limit = highest + 1
            count = found
        }
        var set = ChunkSet(chunkLimit: limit, count: count)
        var taken: UInt64 = 0
        try scan { (record) throws(SnapshotStoreError) in
            // A live store may have grown since the first pass; use only the records that existed
            // then.
            guard taken < count ?? .max else { return false }
            guard record.chunk < limit, set.insert(record.chunk) else {
                throw .duplicate(chunk: record.chunk)
            }
            taken += 1
            return true
        }
        if let chunk = set.seal() { throw .duplicate(chunk: chunk) }
        exceptionCount = taken
        chunks = set
    }

    /// Visits the records up to the one that ends the list, or until `body` returns false.
    private func scan(
        _ body: (ExceptionRecord) throws(SnapshotStoreError) -> Bool
    ) throws(SnapshotStoreError) {
        let storeChunks = source.byteCount / header.chunkByteCount
        let pieceByteCount = min(header.chunkByteCount, 1 << 20)
        var walk = AreaWalk(header: header, storeChunks: storeChunks, chunkLimit: chunkLimit)
        while walk.state == .reading {
            let chunk = header.chunk(ofArea: walk.area)
            guard chunk < storeChunks else { throw .notTerminated(area: walk.area) }
            var offset: UInt64 = 0
            while offset < header.chunkByteCount, walk.state != .stopped {
                let at = chunk * header.chunkByteCount + offset
                try source.parse(at: at, count: Int(pieceByteCount)) {
                    (bytes) throws(SnapshotStoreError) in
                    try walk.take(bytes, order: order, body)
                }
                offset += pieceByteCount
            }
            walk.endArea()
        }
    }
}

/// The position of a scan in the areas, and the rules for one record.
private struct AreaWalk {
    enum State { case reading, ended, stopped }

    let header: StoreHeader
    let storeChunks: UInt64
    let chunkLimit: UInt64
    var area: UInt64 = 0
    var record: UInt64 = 0
    var nextDataChunk: UInt64 = 2
    var state = State.reading

    init(header: StoreHeader, storeChunks: UInt64, chunkLimit: UInt64) {
        self.header = header
        self.storeChunks = storeChunks
        self.chunkLimit = chunkLimit
    }

    mutating func endArea() {
        area += 1
        record = 0
    }

    mutating func take(
        _ bytes: RawSpan, order: AllocationOrder,
        _ body: (ExceptionRecord) throws(SnapshotStoreError) -> Bool
    ) throws(SnapshotStoreError) {
        var cursor = ByteCursor()
        while cursor.offset < bytes.byteCount {
            let found: ExceptionRecord
            do throws(TruncatedBytes) {
                let chunk: UInt64 = try cursor.next(in: bytes)
                found = ExceptionRecord(chunk: chunk, storeChunk: try cursor.next(in: bytes))
            } catch {
                throw .notTerminated(area: area)
            }
            if state == .reading, found.storeChunk != 0 {
                try check(found, order: order)
                guard try body(found) else {
                    state = .stopped
                    return
                }
            } else {
                state = .ended
                guard found.chunk == 0, found.storeChunk == 0 else {
                    throw .garbageAfterEnd(area: area, record: record)
                }
            }
            record += 1
        }
    }

    private mutating func check(
        _ found: ExceptionRecord, order: AllocationOrder
    ) throws(SnapshotStoreError) {
        guard found.storeChunk >= 2, found.storeChunk < storeChunks,
            !header.isArea(chunk: found.storeChunk)
        else {
            throw .wrongDataChunk(area: area, record: record, found: found.storeChunk)
        }
        guard found.chunk < chunkLimit else {
            throw .chunkPastEnd(area: area, record: record, found: found.chunk)
        }
        if case .sequential = order, found.storeChunk != nextDataChunk {
            throw .outOfOrder(
                area: area, record: record, found: found.storeChunk, expected: nextDataChunk)
        }
        nextDataChunk += 1
        if header.isArea(chunk: nextDataChunk) { nextDataChunk += 1 }
    }
}

extension ByteSource {
    /// Reads any range, by reading the whole 4096-byte units around it.
    func parse<Value>(
        at offset: UInt64, count: Int,
        _ body: (RawSpan) throws(SnapshotStoreError) -> Value
    ) throws(SnapshotStoreError) -> Value {
        let unit: UInt64 = 4096
        let start = offset / unit * unit
        let wanted = offset + UInt64(count)
        guard wanted <= byteCount else { throw .truncated(byteCount: byteCount) }
        let end = min((wanted + unit - 1) / unit * unit, byteCount)
        var result: Result<Value, SnapshotStoreError>?
        do throws(ByteSourceError) {
            try read(at: start, count: Int(end - start)) { bytes in
                let first = Int(offset - start)
                result = Result { () throws(SnapshotStoreError) in
                    try body(bytes.extracting(first..<(first + count)))
                }
            }
        } catch {
            throw .read(error)
        }
        guard let result else { throw .truncated(byteCount: byteCount) }
        return try result.get()
    }
}
