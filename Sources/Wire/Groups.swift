// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The generations that are committed together with one, or not at all (Specification 7.1).
package struct Group: Hashable, Sendable {
    /// Allowed number of members.
    package static let sizes: ClosedRange<UInt32> = 2...Limits.groupMembers
    /// Random id for one set of points in time.
    package var id: GroupID
    /// Number of generations, including this one.
    package var members: UInt32

    package init(id: GroupID, members: UInt32) {
        self.id = id
        self.members = members
    }
}

/// Asks to drop an unfinished transfer; answered by STATE.
package struct Abandon: Message {
    package static let type = FrameType.abandon
    package var transfer: TransferID

    package init(transfer: TransferID) { self.transfer = transfer }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("ABANDON")
        transfer = try reader.identifier(bytes)
        guard !transfer.isNone else { throw reader.error(.zeroTransfer) }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { transfer.bytes }
}
