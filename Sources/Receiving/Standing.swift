// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import Staging
internal import Wire

// Answers OPEN and ABANDON with the volume's state, after finishing what was left behind.

extension IncomingTransfer {
    /// Drops the unfinished transfer if it is the named one, then reports the volume's state.
    ///
    /// A group that has completed since STATE was sent can no longer be dropped: it is applied.
    func abandon(_ transfer: TransferID) throws {
        guard let writer else { return }
        try writer.refresh()
        let isUnfinished = [.initialising, .staging, .prepared].contains(writer.volume.state)
        if isUnfinished, writer.volume.transfer?.begin.transfer == transfer {
            do { try writer.abandon() } catch let error as CatalogError {
                try writer.refresh()
                guard case .conflict = error.kind, writer.volume.state == .applying else {
                    throw error
                }
            }
        }
        staged = nil
        try stand(writer)
    }

    /// Finishes what was left behind and reports the volume's state.
    func stand(_ writer: VolumeWriter) throws {
        try storing {
            try writer.recover(tell)
            do {
                targetProblem = nil
                try writer.checkTarget(tell)
            } catch let error as TargetError where writer.volume.isGivenUp {
                targetProblem = error
            }
        }
        note(writer)
        try loadStaged(writer)
        report(.opened(try standbyState(writer)))
    }

    func standbyState(_ writer: VolumeWriter) throws -> StandbyState {
        let volume = writer.volume
        let target: TargetObject?
        do { target = try TargetObject(path: volume.targetPath) } catch {
            // The volume is promoted or will be replaced: only a resync needs the target.
            guard volume.isGivenUp else { throw refusal(error) }
            targetProblem = targetProblem ?? error
            target = nil
        }
        return StandbyState(
            state: volume.state, targetKind: target?.kind ?? volume.targetKind,
            targetSize: target?.byteCount ?? 0,
            lineage: volume.lineage ?? .none, committedNumber: volume.committed?.head.number ?? 0,
            committedID: volume.committed?.id ?? .zero,
            transfer: staged == nil ? .none : volume.transfer?.begin.transfer ?? .none,
            durableSegments: UInt64(staged?.seals.count ?? 0))
    }

    /// Records that the source still holds the committed generation, whose target was checked for
    /// STATE.
    func confirm(_ current: Current) throws {
        guard let writer else { return }
        let volume = writer.volume
        guard [.consistent, .staging].contains(volume.state), current.id == volume.committed?.id,
            current.number == volume.committed?.head.number
        else {
            let rule = RefusalRule.parentMismatch
            throw Refusal(.lineage, rule: rule, rule.meaning)
        }
        try home.catalog.noteConfirmed(volume.name, fence: writer.fence)
        report(.committed(Committed(number: current.number, id: current.id)))
    }

    /// Finds how much of the unfinished transfer is durable; drops a log that belongs to another
    /// one.
    private func loadStaged(_ writer: VolumeWriter) throws {
        guard let transfer = writer.volume.transfer else { return }
        guard let key = transfer.begin.tagKey ?? writer.volume.tagKey else {
            return try writer.abandon()
        }
        do {
            let found = try StagedTransfer(
                reading: writer.logPath, algorithm: transfer.begin.head.tagAlgorithm, key: key,
                poll: poll)
            // A prepared generation needs all its segments.
            let isWhole =
                writer.volume.state != .prepared
                || UInt64(found.seals.count) == writer.volume.applying?.segmentCount
            guard found.header.id == transfer.logID, isWhole else { return try writer.abandon() }
            staged = found
        } catch let error as StagingLogError {
            guard case .damaged = error else { throw refusal(error) }
            try writer.abandon()
        }
    }

    func note(_ writer: VolumeWriter) {
        if let problem = writer.keepingProblem {
            report(.note("volume \(writer.volume.name): not kept as wanted: \(problem)"))
        }
        if let problem = writer.hookProblem {
            report(.note("volume \(writer.volume.name): --post-commit: \(problem)"))
        }
    }
}
