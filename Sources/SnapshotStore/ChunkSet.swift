// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The chunks that have a record, each at most once.
///
/// It is a bitmap up to 32 MiB (one bit for every 4 KiB of 1 TiB), otherwise a sorted list of 8
/// bytes per record, which the store's own size bounds. A number in a damaged store cannot inflate
/// either form.
struct ChunkSet: Sendable {
    /// Largest set that is kept as a bitmap, in chunks.
    static let maximumBitmapBits: UInt64 = 1 << 28

    private let isBitmap: Bool
    /// The bitmap, or the list of chunks.
    private var words: [UInt64]

    /// Makes an empty set.
    ///
    /// - Parameter count: number of chunks to come, if known; the set then takes the smaller form.
    init(chunkLimit: UInt64, count: UInt64? = nil) {
        isBitmap =
            chunkLimit <= Self.maximumBitmapBits && (count.map { chunkLimit / 64 <= $0 } ?? true)
        words = isBitmap ? Array(repeating: 0, count: Int((chunkLimit + 63) / 64)) : []
    }

    /// Adds a chunk below the limit. Returns whether it is new; a list always returns true, because
    /// only `seal` finds its duplicates.
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

    /// Ends the additions. Returns a chunk that was added twice, or `nil`.
    mutating func seal() -> UInt64? {
        guard !isBitmap else { return nil }
        words.sort()
        for index in words.indices.dropFirst() where words[index] == words[index - 1] {
            return words[index]
        }
        return nil
    }

    /// The first chunk of the set at or after `chunk`. The caller keeps `position` between calls,
    /// starting with 0.
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
