// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// Sixteen random bytes that identify something; the parameter keeps kinds of ids apart.
package struct RandomID<Kind>: Hashable, Sendable, CustomStringConvertible {
    /// The id; always 16 bytes.
    package let bytes: [UInt8]

    /// Takes 16 bytes; returns `nil` for any other count.
    package init?(bytes: [UInt8]) {
        guard bytes.count == 16 else { return nil }
        self.bytes = bytes
    }

    private init(unchecked bytes: [UInt8]) { self.bytes = bytes }

    /// All zeros, which stands for no id.
    package static var none: Self { Self(unchecked: [UInt8](repeating: 0, count: 16)) }

    /// A new random id.
    package static func random() -> Self { Self(unchecked: SecureRandom.bytes(16)) }

    /// Whether it is all zeros.
    package var isNone: Bool { bytes.allSatisfy { $0 == 0 } }

    package var description: String { Hex.encode(bytes) }
}

/// Marks the id of a lineage.
package enum LineageKind {}
/// Marks the id of a transfer.
package enum TransferKind {}
/// Marks the id of a group.
package enum GroupKind {}
/// Marks the id of a staging log.
package enum StagingLogKind {}

/// Identifies a chain of generations.
package typealias LineageID = RandomID<LineageKind>
/// Identifies one attempt to send one generation.
package typealias TransferID = RandomID<TransferKind>
/// Identifies generations that are committed together or not at all.
package typealias GroupID = RandomID<GroupKind>
/// Ties the segments of a staging log to its file.
package typealias StagingLogID = RandomID<StagingLogKind>

/// The name of a volume, valid on the wire and in our paths.
package struct VolumeName: Hashable, Sendable, CustomStringConvertible {
    /// The text: 1–63 of the characters that LVM allows in names: A–Z, a–z, 0–9, "+", "_", ".",
    /// "-"; it does not begin with "-" and is neither "." nor "..". Names that differ only in case
    /// are different names.
    package let text: String

    /// The rule as text.
    package static let rule =
        "1 to 63 of A-Z, a-z, 0-9, '+', '_', '.', '-', does not begin with '-', and is neither '.' nor '..'"

    /// Takes a name, or returns `nil` if it breaks the rule.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        guard (1...63).contains(bytes.count), bytes.first != UInt8(ascii: "-"), text != ".",
            text != "..",
            bytes.allSatisfy({ Self.isLetterOrDigit($0) || "+_.-".utf8.contains($0) })
        else { return nil }
        self.text = text
    }

    package var description: String { text }

    /// Whether it requires the feature *wide names*. Other names have no capitals and no "+" and
    /// begin with a letter or digit.
    package var isWide: Bool {
        let bytes = text.utf8
        return bytes.contains { $0 == UInt8(ascii: "+") || Self.isCapital($0) }
            || !(bytes.first.map(Self.isLetterOrDigit) ?? false)
    }

    private static func isCapital(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        isCapital(byte) || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}
