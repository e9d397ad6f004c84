// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import COpenSSL

/// The keyed digest of one block's content (specification 6.2).
package struct Tag: Hashable, Sendable, CustomStringConvertible {
    package static let byteCount = 16

    // The bytes as two words, least significant byte first.
    fileprivate let low: UInt64
    fileprivate let high: UInt64

    /// Reads 16 bytes at `offset`.
    package init(_ span: RawSpan, at offset: Int) throws(TruncatedBytes) {
        var cursor = ByteCursor(at: offset)
        low = try cursor.next(in: span)
        high = try cursor.next(in: span)
    }

    fileprivate init(prefixOf words: [2 of UInt64]) {
        low = UInt64(littleEndian: words[0])
        high = UInt64(littleEndian: words[1])
    }

    /// All zeros; in a tag map, a block of zeros.
    package static let zero = Tag(prefixOf: [0, 0])
    package var isZero: Bool { low == 0 && high == 0 }

    /// Marks missing content: if a target ends before the volume does, its map has this for the
    /// volume's last block (Specification 7.2).
    package static let missing = Tag(prefixOf: [.max, .max])

    /// The 16 bytes.
    package var bytes: [UInt8] {
        var bytes = [UInt8]()
        bytes.reserveCapacity(Self.byteCount)
        append(to: &bytes)
        return bytes
    }

    /// Appends the 16 bytes.
    package func append(to bytes: inout [UInt8]) {
        bytes.append(littleEndian: low)
        bytes.append(littleEndian: high)
    }

    /// Hides the value: only the two hosts may see tags.
    package var description: String { "Tag(…)" }
}

/// Algorithm of the tags; the raw value appears in BEGIN and in the generation record.
package enum TagAlgorithm: UInt8, Sendable, CaseIterable {
    /// Poly1305 (RFC 8439 2.5) over the content.
    case poly1305 = 1
    /// The first 16 bytes of SHA-256(key ‖ content).
    case sha256 = 2
}

/// The secret key of a lineage for comparing content.
///
/// It is never printed.
package struct TagKey: Hashable, Sendable, CustomStringConvertible, CustomReflectable {
    package static let byteCount = 32

    /// The 32 bytes, for BEGIN and for the state files.
    package let bytes: [UInt8]

    /// Takes 32 bytes; returns `nil` for any other count.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount else { return nil }
        self.bytes = bytes
    }

    private init(random: Void) {
        bytes = SecureRandom.bytes(Self.byteCount)
    }

    /// Makes a new key.
    package static func random() -> TagKey { TagKey(random: ()) }

    package var description: String { "TagKey(…)" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}

/// Computes tags with one key; each thread needs a separate one.
@safe package final class Tagger {
    /// Content is tagged in pieces that end at multiples of this size in the volume.
    package static let blockByteCount = 65_536

    package let algorithm: TagAlgorithm
    private let key: TagKey
    private let poly1305: OpaquePointer
    private var sha256 = SHA256Hasher()

    package init(_ algorithm: TagAlgorithm, key: TagKey) {
        self.algorithm = algorithm
        self.key = key
        LibCrypto.start
        // SAFETY: the strings are constants; the context keeps its own reference to the method.
        let method = unsafe EVP_MAC_fetch(nil, "POLY1305", nil)
        defer { unsafe EVP_MAC_free(method) }
        guard let context = unsafe EVP_MAC_CTX_new(method) else {
            preconditionFailure("libcrypto has no Poly1305")
        }
        unsafe self.poly1305 = context
    }

    deinit {
        // SAFETY: this object is the only owner.
        unsafe EVP_MAC_CTX_free(poly1305)
    }

    /// The tag of `content`, which must lie inside one block.
    package func tag(_ content: RawSpan) -> Tag {
        switch algorithm {
        case .poly1305:
            return poly1305Tag(content)
        case .sha256:
            sha256.update(key.bytes)
            sha256.update(content)
            return sha256.finish().tag
        }
    }

    /// The tags of content that starts at `volumeOffset`: one for each block it touches, in order.
    package func tags(ofContent content: RawSpan, at volumeOffset: UInt64) -> [Tag] {
        let block = Self.blockByteCount
        var tags = [Tag]()
        tags.reserveCapacity(content.byteCount / block + 2)
        var start = 0
        var room = block - Int(volumeOffset % UInt64(block))
        while start < content.byteCount {
            let end = start + min(room, content.byteCount - start)
            tags.append(tag(content.extracting(start..<end)))
            start = end
            room = block
        }
        return tags
    }

    private func poly1305Tag(_ content: RawSpan) -> Tag {
        var words: [2 of UInt64] = [0, 0]
        var written = 0
        // SAFETY: the key holds 32 bytes, the output the 16 that Poly1305 writes, and no pointer
        // leaves its closure.
        let result = unsafe key.bytes.withUnsafeBytes { key in
            unsafe EVP_MAC_init(
                poly1305, key.baseAddress?.assumingMemoryBound(to: UInt8.self), key.count, nil)
                & content.withUnsafeBytes {
                    unsafe EVP_MAC_update(
                        poly1305, $0.baseAddress?.assumingMemoryBound(to: UInt8.self), $0.count)
                }
                & withUnsafeMutableBytes(of: &words) {
                    unsafe EVP_MAC_final(
                        poly1305, $0.baseAddress?.assumingMemoryBound(to: UInt8.self), &written,
                        $0.count)
                }
        }
        precondition(result == 1 && written == Tag.byteCount, "Poly1305 failed")
        return Tag(prefixOf: words)
    }
}

extension SHA256Digest {
    /// The first 16 bytes as a tag.
    fileprivate var tag: Tag { Tag(prefixOf: leadingWords) }
}
