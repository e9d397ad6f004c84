// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// Sixteen random bytes that name something; the parameter keeps different things apart.
package struct RandomID<Kind>: Hashable, Sendable, CustomStringConvertible {
    /// The bytes; always sixteen.
    package let bytes: [UInt8]

    /// Takes sixteen bytes.
    package init?(bytes: [UInt8]) {
        guard bytes.count == 16 else { return nil }
        self.bytes = bytes
    }

    private init(unchecked bytes: [UInt8]) { self.bytes = bytes }

    /// All zeros: "there is none".
    package static var none: Self { Self(unchecked: [UInt8](repeating: 0, count: 16)) }

    /// A new one.
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

/// Names a chain of generations.
package typealias LineageID = RandomID<LineageKind>
/// Names one attempt to bring one generation over.
package typealias TransferID = RandomID<TransferKind>
/// Names generations that are committed together or not at all.
package typealias GroupID = RandomID<GroupKind>
/// Ties the segments of a staging log to its file.
package typealias StagingLogID = RandomID<StagingLogKind>

/// The name of a volume, as it may travel and stand in a path of ours.
package struct VolumeName: Hashable, Sendable, CustomStringConvertible {
    /// The text: 1–63 of a–z, 0–9, ".", "_", "-", beginning with a letter or digit.
    package let text: String

    /// What a name may be, in words.
    package static let rule =
        "1 to 63 of a-z, 0-9, '.', '_', '-', and begins with a letter or digit"

    /// Takes a name that keeps the rule.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        guard (1...63).contains(bytes.count), let first = bytes.first,
            Self.isLetterOrDigit(first),
            bytes.allSatisfy({
                Self.isLetterOrDigit($0) || $0 == 0x2E || $0 == 0x5F || $0 == 0x2D
            })
        else { return nil }
        self.text = text
    }

    package var description: String { text }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte)
    }
}
