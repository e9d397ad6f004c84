// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Platform
internal import Staging
internal import Wire

/// Room on a target for a generation that is about to be committed. After the commit point there is no way back, so that
/// what can be reserved is reserved before.
final class Room {
    private let target: Target
    private var shortage: SystemCallError?

    init(_ target: Target) { self.target = target }

    /// Reserves what one record needs.
    func reserve(_ record: RecordHeader) {
        guard record.kind == .data, shortage == nil else { return }
        do { try target.reserve(record.offset, count: record.length) } catch {
            // What else goes wrong here is found when it is written, and is told then.
            if error.isNoSpace { shortage = error }
        }
    }

    /// Refuses a generation for which there is no room. What was reserved is given back, and what has come in stays, so
    /// that the next send goes on.
    func check(_ record: GenerationRecord, _ volume: StandbyVolume) throws {
        guard let shortage else { return }
        target.giveBackReserved()
        let copy = volume.committed.map { "; the copy is generation \($0.head.number), as before" }
        throw Refusal(
            .space,
            "the target has no room for generation \(record.head.number) (\(shortage))\(copy ?? ""). "
                + "Make room, then send again")
    }
}
