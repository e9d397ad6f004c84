// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Lower-case hexadecimal.
package enum Hex {
    private static let digits = [UInt8]("0123456789abcdef".utf8)

    /// Two digits for each byte.
    package static func encode(_ bytes: [UInt8]) -> String {
        String(
            decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] },
            as: UTF8.self)
    }

    /// The bytes; `nil` unless `text` consists of pairs of digits, of either case.
    package static func decode(_ text: String) -> [UInt8]? {
        let values = text.utf8.map { Character(Unicode.Scalar($0)).isASCIIHexValue }
        guard values.count.isMultiple(of: 2) else { return nil }
        var bytes = [UInt8]()
        bytes.reserveCapacity(values.count / 2)
        for index in stride(from: 0, to: values.count, by: 2) {
            guard let high = values[index], let low = values[index + 1] else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }
}

extension Character {
    fileprivate var isASCIIHexValue: UInt8? {
        isASCII ? hexDigitValue.map { UInt8($0) } : nil
    }
}

/// Base32 with the alphabet of RFC 4648 and without padding.
package enum Base32 {
    /// The case of the letters.
    package enum Letters: Sendable {
        case lower
        case upper
    }

    private static let lower = [UInt8]("abcdefghijklmnopqrstuvwxyz234567".utf8)
    private static let upper = [UInt8]("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".utf8)

    private static func alphabet(_ letters: Letters) -> [UInt8] {
        letters == .lower ? lower : upper
    }

    /// One character for each five bits; the last one is padded with zero bits.
    package static func encode(_ bytes: [UInt8], _ letters: Letters) -> String {
        let alphabet = alphabet(letters)
        var text = [UInt8]()
        text.reserveCapacity((bytes.count * 8 + 4) / 5)
        var bits: UInt16 = 0
        var count = 0
        for byte in bytes {
            bits = bits << 8 | UInt16(byte)
            count += 8
            while count >= 5 {
                count -= 5
                text.append(alphabet[Int(bits >> count & 31)])
            }
        }
        if count > 0 { text.append(alphabet[Int(bits << (5 - count) & 31)]) }
        return String(decoding: text, as: UTF8.self)
    }

    /// The bytes; `nil` unless `text` is exactly what `encode` makes of them.
    package static func decode(_ text: String, _ letters: Letters) -> [UInt8]? {
        let alphabet = alphabet(letters)
        var bytes = [UInt8]()
        bytes.reserveCapacity(text.utf8.count * 5 / 8)
        var bits: UInt16 = 0
        var count = 0
        for character in text.utf8 {
            guard let value = alphabet.firstIndex(of: character) else { return nil }
            bits = bits << 5 | UInt16(value)
            count += 5
            if count >= 8 {
                count -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> count))
            }
        }
        // Fewer than five bits may be left, all zero: every byte string has exactly one text.
        guard count < 5, bits & (1 << count - 1) == 0 else { return nil }
        return bytes
    }
}
