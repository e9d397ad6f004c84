// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// The superblock of a thin pool: block 0 of the metadata, or its copy in a metadata snapshot.
///
/// | offset | size | field                                                         |
/// |-------:|-----:|---------------------------------------------------------------|
/// |      0 |    4 | checksum                                                      |
/// |      4 |    4 | flags; bit 0: the pool needs a check                          |
/// |      8 |    8 | the superblock's own block number                             |
/// |     16 |   16 | uuid, zero in practice                                        |
/// |     32 |    8 | magic, 27022010                                               |
/// |     40 |    4 | version, 2                                                    |
/// |     44 |    4 | time: the number of snapshots taken so far                    |
/// |     48 |    8 | transaction id, set by LVM                                    |
/// |     56 |    8 | root of the metadata snapshot, or 0                           |
/// |     64 |  128 | data space map; its first 8 bytes are the number of blocks    |
/// |    192 |  128 | metadata space map                                            |
/// |    320 |    8 | root of the mapping tree                                      |
/// |    328 |    8 | root of the device details tree                               |
/// |    336 |    4 | data block size in sectors                                    |
/// |    340 |    4 | metadata block size in sectors, 8                             |
/// |    344 |    8 | number of metadata blocks when the pool was made              |
/// |    352 |   12 | compatible, read-only compatible, incompatible features       |
///
/// All integers are little-endian. Layout: `struct thin_disk_superblock` in
/// drivers/md/dm-thin-metadata.c.
public struct Superblock: Hashable, Sendable {
    /// Value of the magic field.
    public static let magic: UInt64 = 27_022_010

    /// Whether the kernel has flagged the pool for a check because it lost a transaction.
    public let needsCheck: Bool
    /// The pool's clock; each snapshot increments it.
    public let time: UInt32
    /// Transaction id, managed by LVM.
    public let transactionID: UInt64
    /// Block of the metadata snapshot; 0 if there is none.
    public let metadataSnapshot: UInt64
    /// Number of blocks on the data device; 0 in a metadata snapshot, which does not record it.
    public let dataBlockCount: UInt64
    /// Block of the root of the tree of mapping trees.
    public let mappingRoot: UInt64
    /// Block of the root of the tree of device details.
    public let detailsRoot: UInt64
    /// Size of a data block in sectors of 512 bytes.
    public let dataBlockSectors: UInt32
    /// Number of metadata blocks when the pool was made; the metadata device may have grown since.
    public let metadataBlockCount: UInt64

    /// Size of a data block in bytes.
    public var dataBlockByteCount: UInt64 { UInt64(dataBlockSectors) * 512 }

    /// Checks and decodes block `number`.
    init(decoding bytes: RawSpan, number: UInt64) throws(ThinMetadataError.Reason) {
        if number == 0, bytes.isAllZero { throw .uninitialised }
        let magic: UInt64 = try bytes.field(at: 32)
        guard magic == Self.magic else { throw .wrongMagic(found: magic) }
        try MetadataBlock.check(bytes, number: number, salt: .superblock)
        let flags: UInt32 = try bytes.field(at: 4)
        guard flags & ~1 == 0 else { throw .unknownFlags(flags) }
        needsCheck = flags & 1 != 0
        let version: UInt32 = try bytes.field(at: 40)
        guard version == 2 else { throw .wrongVersion(found: version) }
        time = try bytes.field(at: 44)
        transactionID = try bytes.field(at: 48)
        metadataSnapshot = try bytes.field(at: 56)
        dataBlockCount = try bytes.field(at: 64)
        mappingRoot = try bytes.field(at: 320)
        detailsRoot = try bytes.field(at: 328)
        dataBlockSectors = try bytes.field(at: 336)
        guard dataBlockSectors >= 128, dataBlockSectors <= 1 << 21, dataBlockSectors % 128 == 0
        else { throw .wrongDataBlockSize(sectors: dataBlockSectors) }
        let metadataSectors: UInt32 = try bytes.field(at: 340)
        guard metadataSectors == 8 else {
            throw .wrongMetadataBlockSize(sectors: metadataSectors)
        }
        metadataBlockCount = try bytes.field(at: 344)
        let incompatible: UInt32 = try bytes.field(at: 360)
        guard incompatible == 0 else { throw .incompatibleFeatures(incompatible) }
    }
}
