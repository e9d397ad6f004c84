// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The form of an address in an invitation: `host:port` or `[v6]:port` (Specification 9).
enum Address {
    /// Whether the text has that form.
    static func isValid(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard let colon = bytes.lastIndex(of: UInt8(ascii: ":")),
            isPort(bytes[(colon + 1)...])
        else { return false }
        let host = bytes[..<colon]
        if host.first == UInt8(ascii: "[") {
            return host.count >= 2 && host.last == UInt8(ascii: "]")
                && isVersion6(host.dropFirst().dropLast())
        }
        return !host.isEmpty && host.allSatisfy(isHostByte)
    }

    private static func isPort(_ digits: ArraySlice<UInt8>) -> Bool {
        guard (1...5).contains(digits.count), digits.first != UInt8(ascii: "0"),
            digits.allSatisfy(isDigit)
        else { return false }
        return digits.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) } <= 65_535
    }

    /// An address of RFC 4291 2.2: eight groups, of which `::` may replace one run, and of which an
    /// IPv4 address may replace the last two.
    private static func isVersion6(_ text: ArraySlice<UInt8>) -> Bool {
        let parts = text.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        guard parts.count >= 3 else { return false }
        // `::` leaves an empty part: two of them at either end, three if it stands alone.
        let empty = parts.indices.filter { parts[$0].isEmpty }
        switch empty.count {
        case 0: break
        case 1: guard empty[0] != 0, empty[0] != parts.count - 1 else { return false }
        case 2:
            guard empty == [0, 1] || empty == [parts.count - 2, parts.count - 1] else {
                return false
            }
        case 3: guard parts.count == 3 else { return false }
        default: return false
        }
        var groups = 0
        for index in parts.indices where !parts[index].isEmpty {
            if index == parts.count - 1, parts[index].contains(UInt8(ascii: ".")) {
                guard isVersion4(parts[index]) else { return false }
                groups += 2
            } else {
                guard parts[index].count <= 4, parts[index].allSatisfy(isHexDigit) else {
                    return false
                }
                groups += 1
            }
        }
        return empty.isEmpty ? groups == 8 : groups <= 7
    }

    private static func isVersion4(_ text: ArraySlice<UInt8>) -> Bool {
        let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        return parts.count == 4
            && parts.allSatisfy { part in
                (1...3).contains(part.count) && part.allSatisfy(isDigit)
                    && (part.count == 1 || part.first != UInt8(ascii: "0"))
                    && part.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) } <= 255
            }
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }

    private static func isHexDigit(_ byte: UInt8) -> Bool {
        isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
    }

    private static func isHostByte(_ byte: UInt8) -> Bool {
        isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
            || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
    }
}
