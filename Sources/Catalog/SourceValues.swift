// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// What the source calls a receiver, on this host only.
package struct ReceiverName: Hashable, Sendable, CustomStringConvertible {
    /// The text: 1–64 of a–z, 0–9, ".", "_", "-", beginning with a letter or digit.
    package let text: String

    /// What a name may be, in words.
    package static let rule =
        "1 to 64 of a-z, 0-9, '.', '_', '-', and begins with a letter or digit"

    /// Takes a name that keeps the rule.
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
    /// The key it must prove to have.
    package var key: KeyID
    /// host:port.
    package var address: String
    /// Nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    /// The key to which export files for it are encrypted; nil before it has told it.
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

/// The unfinished transfer of a replica, at the source.
package struct SourceTransfer: Equatable, Sendable {
    /// The announcement, with `heldSegments` 0: that field belongs to a connection.
    package let begin: Begin
    /// The identity of the source that is being sent, as text.
    package let base: String
    /// The file that holds the plan and the digests of the segments sent.
    package let planName: String

    package init(begin: Begin, base: String, planName: String) {
        var begin = begin
        begin.heldSegments = 0
        self.begin = begin
        self.base = base
        self.planName = planName
    }
}

/// What the source remembers of one volume at one receiver.
package struct Replica: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// The lineage, from the beginning of its full generation.
    package var lineage: LineageID?
    /// How the lineage's tags are made.
    package var tagAlgorithm: TagAlgorithm?
    /// The lineage's secret.
    package var tagKey: TagKey?
    /// The last generation that the receiver is known to have committed.
    package var committed: GenerationRecord?
    /// When that was heard, nanoseconds since 1970-01-01 UTC.
    package var committedAt: UInt64?
    /// When the standby noted last that nothing has changed since, by this host's clock.
    package var confirmedAt: UInt64?
    /// The identity of the source that the committed generation was made from, as text.
    package var base: String?
    /// Whether the kernel was seen to have given that snapshot up, so that it never proves again what was written.
    package var isBaseGivenUp = false
    /// The generation whose COMMIT may have been sent and whose COMMITTED was not heard. It is the
    /// one of `transfer`.
    package var pending: GenerationRecord?
    /// The file that the pending generation is in, if it was exported and not sent.
    package var exported: String?
    /// The unfinished transfer.
    package var transfer: SourceTransfer?

    /// A replica of which nothing was sent.
    package init(receiver: ReceiverName, volume: VolumeName) {
        self.receiver = receiver
        self.volume = volume
    }
}

/// What a commit has made superfluous and may be deleted.
package struct Superseded: Equatable, Sendable {
    /// The plan of the transfer.
    package var planName: String
    /// The source snapshot of the generation before.
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
    /// The sentence that the command ended with.
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
    /// Of the generation.
    package var id: SHA256Digest
    /// Pages of 16 MiB, from the first one to before the end.
    package var firstPage: UInt64
    package var endPage: UInt64
    /// Pages of the whole volume.
    package var pageCount: UInt64
    package var differingBlocks: UInt64
    /// Nanoseconds since 1970-01-01 UTC.
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

/// A generation that was committed, and what it took.
package struct HistoryEntry: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// Number of the generation.
    package var number: UInt64
    /// Id of the generation.
    package var id: SHA256Digest
    /// Nanoseconds since 1970-01-01 UTC.
    package var committedAt: UInt64
    /// Bytes of the extents in the change list.
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
