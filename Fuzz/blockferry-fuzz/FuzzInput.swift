// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// An input as a list of decisions. Past its end every decision is zero.
struct FuzzInput {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func word16() -> Int { Int(byte()) | Int(byte()) << 8 }

    /// A number of the kind that breaks parsers: small, near a power of two, or any.
    mutating func number() -> UInt64 {
        let choice = byte()
        let small = UInt64(byte())
        switch choice % 8 {
        case 0, 1, 2: return small
        case 3: return (1 << (small % 64)) &- 1
        case 4: return 1 << (small % 64)
        case 5: return (1 << (small % 64)) &+ 1
        case 6: return .max &- small
        default: return (0..<8).reduce(0) { value, _ in value << 8 | UInt64(byte()) }
        }
    }
}

extension [UInt8] {
    /// Puts a little-endian number of `width` bytes at `offset`, as far as there is room.
    mutating func put(_ value: UInt64, at offset: Int, width: Int) {
        for index in 0..<width where offset + index < count {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(index)))
        }
    }
}
