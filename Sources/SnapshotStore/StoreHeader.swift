// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// The header of a dm-snapshot persistent exception store, at the start of its chunk 0.
///
/// | offset | size | field                                                    |
/// |-------:|-----:|----------------------------------------------------------|
/// |      0 |    4 | magic, 0x70416E53 ("SnAp")                               |
/// |      4 |    4 | valid: 1, or 0 once the kernel has invalidated it         |
/// |      8 |    4 | version: 1                                               |
/// |     12 |    4 | chunk size in sectors of 512 bytes                       |
///
/// All integers are little-endian. Layout: `struct disk_header` in drivers/md/dm-snap-persistent.c.
/// This chunk size takes precedence over the one in the device-mapper table.
public struct StoreHeader: Hashable, Sendable {
    /// Value of the first four bytes.
    public static let magic: UInt32 = 0x7041_6E53
    /// The only known version.
    public static let version: UInt32 = 1
    /// Largest chunk that the kernel accepts, in sectors: 1 GiB.
    public static let maximumChunkSectors: UInt32 = 1 << 21
    /// Size of a record in a metadata area, in bytes.
    public static let recordByteCount: UInt64 = 16

    /// Size of a chunk in bytes; a power of two, at least 512.
    public let chunkByteCount: UInt64

    /// Records in a metadata area, which is one chunk.
    public var recordsPerArea: UInt64 { chunkByteCount / Self.recordByteCount }

    /// Decodes a header and refuses one whose list cannot be trusted.
    public init(decoding bytes: RawSpan) throws(SnapshotStoreError) {
        let magic: UInt32
        let valid: UInt32
        let version: UInt32
        let sectors: UInt32
        do throws(TruncatedBytes) {
            var cursor = ByteCursor()
            magic = try cursor.next(in: bytes)
            valid = try cursor.next(in: bytes)
            version = try cursor.next(in: bytes)
            sectors = try cursor.next(in: bytes)
        } catch {
            throw .truncated(byteCount: UInt64(bytes.byteCount))
        }
        guard magic != 0 else { throw .uninitialised }
        guard magic == Self.magic else { throw .wrongMagic(found: magic) }
        guard version == Self.version else { throw .wrongVersion(found: version) }
        guard valid != 0 else { throw .invalidated }
        guard valid == 1 else { throw .wrongValidFlag(found: valid) }
        guard sectors.nonzeroBitCount == 1, sectors <= Self.maximumChunkSectors else {
            throw .wrongChunkSize(sectors: sectors)
        }
        chunkByteCount = UInt64(sectors) * 512
    }

    /// The chunk that holds metadata area `area`; the data chunks of its records follow it.
    func chunk(ofArea area: UInt64) -> UInt64 { 1 + area * (recordsPerArea + 1) }

    /// Whether a chunk of the store is a metadata area.
    func isArea(chunk: UInt64) -> Bool { chunk % (recordsPerArea + 1) == 1 }
}
