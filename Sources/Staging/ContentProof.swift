// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Compression
package import Digests
package import Platform
package import Wire

/// Turns stored bytes into plain content and refuses content that its tags do not prove.
///
/// Use it from one thread only; each call reuses its memory for decompressed content.
package final class ContentProof {
    private let tagger: Tagger
    private let decompressor = ZstdDecompressor()
    private let plain = AlignedBuffer(byteCount: Limits.recordContent)

    /// Makes a proof for a lineage.
    package init(algorithm: TagAlgorithm, key: TagKey) {
        tagger = Tagger(algorithm, key: key)
    }

    /// Location of proven content.
    package struct Content {
        package let memory: AlignedBuffer
        package let offset: Int
        package let count: Int
    }

    /// Proves the content of a data record whose stored bytes start at `offset` in `memory`.
    package func prove(
        _ record: RecordHeader, in memory: AlignedBuffer, at offset: Int
    ) throws(WireError) -> Content {
        let count = Int(record.length)
        let content: Content
        switch record.encoding {
        case .raw:
            content = Content(memory: memory, offset: offset, count: count)
        case .zstd:
            do {
                try memory.withBytes(at: offset, count: record.storedLength) {
                    (stored) throws(CompressionError) in
                    try plain.withMutableBytes(count: count) {
                        (output) throws(CompressionError) in
                        try decompressor.decompress(stored, into: &output)
                    }
                }
            } catch {
                throw WireError("record", Self.reason(error))
            }
            content = Content(memory: plain, offset: 0, count: count)
        }
        let tags = content.memory.withBytes(at: content.offset, count: count) {
            tagger.tags(ofContent: $0, at: record.offset)
        }
        guard tags == record.tags else { throw WireError("record", .tagMismatch) }
        return content
    }

    private static func reason(_ error: CompressionError) -> WireError.Reason {
        switch error {
        case .notAFrame, .dictionary, .noContentSize, .window: .zstdFrame
        case .contentSize: .zstdLength
        case .trailingBytes, .damaged: .zstdContent
        }
    }
}
