// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// An input as a list of decisions and of pieces. Past its end every decision is zero.
///
/// Targets are written so that zero is the decision that goes on as an honest peer would: what an
/// input does not say leads deep instead of into the first error.
struct Input {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isEmpty: Bool { position >= bytes.count }

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

    /// `usual` for most decisions, else any number.
    mutating func number(usually usual: UInt64) -> UInt64 {
        let choice = byte()
        switch choice {
        case 0..<160: return usual
        case 160..<176: return usual &+ 1
        case 176..<192: return usual &- 1
        default: return number()
        }
    }

    /// The next bytes, fewer at the end.
    mutating func take(_ count: Int) -> [UInt8] {
        let end = min(bytes.count, position + count)
        defer { position = end }
        return Array(bytes[position..<end])
    }

    mutating func rest() -> [UInt8] { take(bytes.count - position) }
}

extension [UInt8] {
    /// Puts a little-endian number of `width` bytes at `offset`, as far as there is room.
    mutating func put(_ value: UInt64, at offset: Int, width: Int) {
        for index in 0..<width where offset + index < count {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(index)))
        }
    }

    /// Leaves most bytes as they are, and cuts, lengthens or changes the others as the input says.
    mutating func spoil(_ input: inout Input) {
        switch input.byte() {
        case 0..<176: break
        case 176..<192: removeLast(Swift.min(count, 1 + Int(input.byte())))
        case 192..<200: append(contentsOf: input.take(1 + Int(input.byte() % 16)))
        case 200..<216: put(input.number(), at: input.word16() % (count + 1), width: 8)
        default:
            let place = input.word16() % (count + 1)
            if place < count { self[place] = input.byte() }
        }
    }
}
