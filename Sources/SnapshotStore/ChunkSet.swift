// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The chunks that have a record, each at most once.
///
/// A bitmap while it stays small (32 MiB: one bit for every 4 KiB of 1 TiB), and otherwise a sorted
/// list of eight bytes a record, which the store's own size bounds. Neither follows a number that a
/// damaged store could make up.
struct ChunkSet: Sendable {
    /// Largest set that is kept as a bitmap.
    static let maximumBitmapBits: UInt64 = 1 << 28

    private let isBitmap: Bool
    /// Bits, or sorted chunks.
    private var words: [UInt64]

    /// Makes an empty set.
    ///
    /// - Parameter count: how many chunks it will get, if that is known; then the smaller form is
    ///   taken.
    init(chunkLimit: UInt64, count: UInt64? = nil) {
        isBitmap =
            chunkLimit <= Self.maximumBitmapBits && (count.map { chunkLimit / 64 <= $0 } ?? true)
        words = isBitmap ? Array(repeating: 0, count: Int((chunkLimit + 63) / 64)) : []
    }

    /// Adds a chunk below the limit; tells whether it is new, as far as that is known before
    /// `seal`.
    mutating func insert(_ chunk: UInt64) -> Bool {
        guard isBitmap else {
            words.append(chunk)
            return true
        }
        let bit: UInt64 = 1 << (chunk % 64)
        let isNew = words[Int(chunk / 64)] & bit == 0
        words[Int(chunk / 64)] |= bit
        return isNew
    }

    /// Ends the additions; gives back a chunk that was added twice, if there is one.
    mutating func seal() -> UInt64? {
        guard !isBitmap else { return nil }
        words.sort()
        for index in words.indices.dropFirst() where words[index] == words[index - 1] {
            return words[index]
        }
        return nil
    }

    /// The first chunk at or after `chunk` that is in the set; `position` is the caller's bookmark.
    func next(from chunk: UInt64, position: inout Int) -> UInt64? {
        guard isBitmap else {
            while position < words.count, words[position] < chunk { position += 1 }
            return position < words.count ? words[position] : nil
        }
        var index = Int(chunk / 64)
        guard index < words.count else { return nil }
        var word = words[index] & (UInt64.max << (chunk % 64))
        while word == 0 {
            index += 1
            guard index < words.count else { return nil }
            word = words[index]
        }
        return UInt64(index) * 64 + UInt64(word.trailingZeroBitCount)
    }
}
