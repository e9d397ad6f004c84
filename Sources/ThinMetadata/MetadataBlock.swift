// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Properties that all blocks of dm's persistent-data library share.
///
/// A block has 4096 bytes: a checksum over everything after the first four bytes, and its own
/// number. Source: drivers/md/persistent-data.
enum MetadataBlock {
    static let byteCount = 4096

    /// The value that the checksum of each kind of block is XORed with.
    enum Salt: UInt32 {
        case superblock = 160_774
        case node = 121_107
    }

    /// Checks a block's checksum and number.
    static func check(
        _ bytes: RawSpan, number: UInt64, salt: Salt
    ) throws(ThinMetadataError.Reason) {
        let stored: UInt32 = try bytes.field(at: 0)
        let computed = CRC32C.update(.max, bytes.extracting(4..<byteCount)) ^ salt.rawValue
        guard stored == computed else {
            throw .checksumMismatch(stored: stored, computed: computed)
        }
        let found: UInt64 = try bytes.field(at: 8)
        guard found == number else { throw .wrongBlockNumber(found: found) }
    }
}

extension RawSpan {
    /// Reads a little-endian field.
    @inline(__always)
    func field<Value: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int
    ) throws(ThinMetadataError.Reason) -> Value {
        do throws(TruncatedBytes) {
            return try littleEndian(at: offset)
        } catch {
            throw .truncated(error)
        }
    }
}
