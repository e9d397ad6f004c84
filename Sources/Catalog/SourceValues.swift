// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// The name of a receiver on this host.
package struct ReceiverName: Hashable, Sendable, CustomStringConvertible {
    /// The text: 1–64 of a–z, 0–9, ".", "_", "-", starting with a letter or digit.
    package let text: String

    /// The rule as text.
    package static let rule =
        "1 to 64 of a-z, 0-9, '.', '_', '-', and begins with a letter or digit"

    /// Takes a name, or returns `nil` if it breaks the rule.
    package init?(_ text: String) {
        let characters = text.utf8
        guard (1...64).contains(characters.count), let first = characters.first,
            Self.isLetterOrDigit(first),
            characters.allSatisfy({
                Self.isLetterOrDigit($0) || ".-_".utf8.contains($0)
            })
        else { return nil }
        self.text = text
    }

    package var description: String { text }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}

/// A receiver that the source has paired with.
package struct Receiver: Hashable, Sendable {
    package var name: ReceiverName
    /// The key that the receiver must prove.
    package var key: KeyID
    /// Address, as host:port.
    package var address: String
    /// Time of the pairing, nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    /// The key to which export files for the receiver are encrypted; `nil` until the receiver sends
    /// it.
    package var exportKey: X25519Key?

    package init(
        name: ReceiverName, key: KeyID, address: String, addedAt: UInt64,
        exportKey: X25519Key? = nil
    ) {
        self.name = name
        self.key = key
        self.address = address
        self.addedAt = addedAt
        self.exportKey = exportKey
    }
}

/// The unfinished transfer of a replica, on the source.
package struct SourceTransfer: Equatable, Sendable {
    /// The announcement, with `heldSegments` 0: that field depends on the connection.
    package let begin: Begin
    /// The source's identity as text.
    package let base: String
    /// Name of the file with the plan; the digests of the segments sent are beside it.
    package let planName: String

    package init(begin: Begin, base: String, planName: String) {
        var begin = begin
        begin.heldSegments = 0
        self.begin = begin
        self.base = base
        self.planName = planName
    }
}

/// The source's record of one volume at one receiver.
package struct Replica: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// The lineage, set when its full generation begins.
    package var lineage: LineageID?
    /// Algorithm of the lineage's tags.
    package var tagAlgorithm: TagAlgorithm?
    /// Secret key of the lineage's tags.
    package var tagKey: TagKey?
    /// The last generation known to be committed by the receiver.
    package var committed: GenerationRecord?
    /// When COMMITTED arrived, nanoseconds since 1970-01-01 UTC.
    package var committedAt: UInt64?
    /// When the standby last confirmed that nothing has changed since, by this host's clock.
    package var confirmedAt: UInt64?
    /// Identity of the committed generation's source, as text.
    package var base: String?
    /// Whether the kernel was seen to have invalidated that snapshot, which then never proves
    /// writes again.
    package var isBaseGivenUp = false
    /// The generation of `transfer`, if its COMMIT may have been sent and COMMITTED has not
    /// arrived.
    package var pending: GenerationRecord?
    /// Path of the pending generation's file, if it was exported instead of sent.
    package var exported: String?
    /// The unfinished transfer.
    package var transfer: SourceTransfer?

    /// A replica before its first send.
    package init(receiver: ReceiverName, volume: VolumeName) {
        self.receiver = receiver
        self.volume = volume
    }
}

/// What a commit has made obsolete and may be deleted.
package struct Superseded: Equatable, Sendable {
    /// Name of the transfer's plan.
    package var planName: String
    /// Source snapshot of the previous generation.
    package var base: String?

    package init(planName: String, base: String?) {
        self.planName = planName
        self.base = base
    }
}

/// Why a command failed.
package struct SourceFailure: Equatable, Sendable {
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    package var rule: String?
    /// The error message of the command.
    package var text: String

    package init(time: UInt64, rule: String?, text: String) {
        self.time = time
        self.rule = rule
        self.text = text
    }
}

/// A comparison of a part of a generation with the standby's copy.
package struct Verification: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// Id of the generation.
    package var id: SHA256Digest
    /// First page and end of the compared range of pages, 16 MiB each.
    package var firstPage: UInt64
    package var endPage: UInt64
    /// Number of pages of the whole volume.
    package var pageCount: UInt64
    package var differingBlocks: UInt64
    /// Time of the comparison, nanoseconds since 1970-01-01 UTC.
    package var time: UInt64

    package init(
        receiver: ReceiverName, volume: VolumeName, id: SHA256Digest, firstPage: UInt64,
        endPage: UInt64, pageCount: UInt64, differingBlocks: UInt64, time: UInt64
    ) {
        self.receiver = receiver
        self.volume = volume
        self.id = id
        self.firstPage = firstPage
        self.endPage = endPage
        self.pageCount = pageCount
        self.differingBlocks = differingBlocks
        self.time = time
    }
}

/// A committed generation and what it cost.
package struct HistoryEntry: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// Number of the generation.
    package var number: UInt64
    /// Id of the generation.
    package var id: SHA256Digest
    /// Nanoseconds since 1970-01-01 UTC.
    package var committedAt: UInt64
    /// Bytes in the change list's extents.
    package var changedBytes: UInt64
    /// Bytes sent and received.
    package var wireBytes: UInt64
    /// Nanoseconds from the first record to COMMITTED, over all connections.
    package var duration: UInt64

    package init(
        receiver: ReceiverName, volume: VolumeName, number: UInt64, id: SHA256Digest,
        committedAt: UInt64, changedBytes: UInt64, wireBytes: UInt64, duration: UInt64
    ) {
        self.receiver = receiver
        self.volume = volume
        self.number = number
        self.id = id
        self.committedAt = committedAt
        self.changedBytes = changedBytes
        self.wireBytes = wireBytes
        self.duration = duration
    }
}
