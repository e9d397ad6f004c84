// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Platform
package import Wire

/// Finishes what earlier processes left behind: brings volumes to a complete generation
/// (`VolumeWriter.recover`) and reports the result in the journal.
package struct Recovery {
    private let home: StandbyHome
    private let log: (JournalEntry) -> Void

    package init(_ home: StandbyHome, log: @escaping (JournalEntry) -> Void) {
        self.home = home
        self.log = log
    }

    /// Recovers every volume that no other process holds.
    ///
    /// - Returns: the volumes that are held.
    package func recoverAll() throws -> [VolumeName] {
        try home.catalog.volumes().map(\.name).filter { name in
            let isHeld = !recover(name)
            if isHeld {
                log("volume \(name): another process has it; recovered when that has ended")
            }
            return isHeld
        }
    }

    /// Recovers each of the volumes once no other process holds it.
    package func recover(held: [VolumeName]) {
        let pauseMilliseconds = 500
        var held = held
        while !held.isEmpty {
            held.removeAll(where: recover)
            _ = Socket.waitReadable([], milliseconds: pauseMilliseconds)
        }
    }

    /// The volumes with a committed generation that is not on its target and that no process holds.
    package func interrupted() -> [VolumeName] {
        let applying = (try? home.catalog.volumes(in: .applying)) ?? []
        // A process that is applying one holds its lock.
        return applying.filter { ((try? home.lock($0)) ?? nil) != nil }
    }

    /// Recovers one volume; its failure does not keep others from being served.
    ///
    /// - Returns: whether no other process held it.
    private func recover(_ name: VolumeName) -> Bool {
        do {
            guard let writer = try VolumeWriter(home, name) else { return false }
            let before = writer.volume.state
            try writer.recover()
            if before == .applying { log("volume \(name): finished applying") }
            if let problem = writer.keepingProblem {
                log("volume \(name): not kept as wanted: \(problem)")
            }
            if let problem = writer.hookProblem {
                log("volume \(name): --post-commit: \(problem)")
            }
        } catch {
            // A volume that is not recovered here is recovered when it is next opened.
            log("volume \(name): \(error)")
        }
        return true
    }
}
