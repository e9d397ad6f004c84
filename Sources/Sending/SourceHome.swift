// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
package import TLS
package import Wire

/// The state directory of a source host: identity, catalog and plans.
package struct SourceHome: Sendable {
    /// The directory.
    package let path: String
    /// The standbys, and where each volume stands on each.
    package let catalog: SourceCatalog

    /// Opens the directory, making what is missing.
    package init(path: String) throws {
        self.path = path
        try Directory.create(path)
        catalog = try SourceCatalog(directory: path)
        try Directory.createOwn(path + "/plans")
        try Directory.createOwn(path + "/locks")
        try Directory.createOwn(path + "/maps")
    }

    /// Opens the directory to look at it: where it cannot be written, only the catalog is read, and nothing is made.
    package init(forReading path: String) throws {
        guard CatalogReading.isNeeded(in: path) else {
            try self.init(path: path)
            return
        }
        self.init(path, try SourceCatalog(reading: path))
    }

    private init(_ path: String, _ catalog: SourceCatalog) {
        self.path = path
        self.catalog = catalog
    }

    /// This host's identity, made at first use.
    package func identity() throws -> Identity {
        try IdentityFile.readOrCreate(path + "/identity.pem")
    }

    /// Takes the right to send a volume to a standby, for as long as the result lives.
    ///
    /// A command that only asks whether the volume is busy holds the lock for a moment; that moment is waited for.
    ///
    /// - Throws: `busy` if another process is at it.
    package func lock(_ receiver: ReceiverName, _ volume: VolumeName) throws -> SendLock {
        let file = "\(path)/locks/\(volume)@\(receiver)"
        guard let lock = try FileLock.waiting(Self.lockPatience, path: file) else {
            throw SendError.busy(volume)
        }
        return SendLock(receiver: receiver, volume: volume, lock: lock)
    }

    /// In nanoseconds.
    private static let lockPatience = nanosecondsPerSecond / 2

    /// Forgets what is known of a volume on a standby.
    package func forget(_ receiver: ReceiverName, _ volume: VolumeName) throws {
        let lock = try lock(receiver, volume)
        defer { withExtendedLifetime(lock) {} }
        if let plan = try catalog.forgetReplica(volume, at: receiver).transfer?.planName {
            removePlan(plan)
        }
        map(receiver, volume).remove()
    }

    /// Remembers that the kernel has given up a classic snapshot, wherever that is the base: its store names no longer all
    /// that was written, although it may look whole after the next activation.
    package func noteGivenUp(_ snapshot: String) {
        // The next command that looks sees it too, as long as the snapshot stays active.
        let known = (try? catalog.replicas()) ?? []
        for replica in known where replica.baseIdentity?.snapshotUUID == snapshot {
            try? catalog.setBaseGivenUp(replica.volume, at: replica.receiver, replica.base)
        }
    }

    /// Remembers the export key that a standby has told.
    func note(_ exportKey: X25519Key?, of receiver: Receiver) throws {
        guard let exportKey, exportKey != receiver.exportKey else { return }
        try catalog.setExportKey(exportKey, of: receiver.key)
    }

    /// The tag map of a volume on a standby.
    func map(_ receiver: ReceiverName, _ volume: VolumeName) -> SourceMap {
        SourceMap("\(path)/maps/\(volume)@\(receiver)")
    }

    /// The name of a transfer's plan. It holds the transfer, so that no other one's plan or seals are ever taken for its own,
    /// whatever names standby and volume are given later. The sign between its parts stands in no name.
    func planName(
        _ receiver: ReceiverName, _ volume: VolumeName, _ transfer: TransferID
    ) -> String { "\(volume)@\(receiver)@\(transfer)" }

    /// Removes the plans of a volume on a standby that a crash has left: no catalog names them.
    func removeLostPlans(_ receiver: ReceiverName, _ volume: VolumeName) throws {
        let begin = "\(volume)@\(receiver)@"
        // Who was given another name since keeps the plan that it has.
        let known = Set(try catalog.replicas().compactMap { $0.transfer?.planName })
        for file in try Directory.names(in: path + "/plans") where file.hasPrefix(begin) {
            let name = file.hasSuffix(Self.seals) ? String(file.dropLast(Self.seals.count)) : file
            if !known.contains(name) { removePlan(name) }
        }
        // Version 0.1.0 called it so.
        let former = "\(volume)@\(receiver)"
        if !known.contains(former) { removePlan(former) }
    }

    private static let seals = ".seals"

    /// Where a plan with this name is.
    func planPath(_ name: String) -> String { "\(path)/plans/\(name)" }

    /// Where its seals are.
    func sealsPath(_ name: String) -> String { planPath(name) + Self.seals }

    /// Removes a plan and its seals. Nobody needs them any more, so that a failure does not matter.
    func removePlan(_ name: String) {
        try? Directory.remove(planPath(name))
        try? Directory.remove(sealsPath(name))
    }
}

/// The right to send a volume to a standby.
package struct SendLock: Sendable {
    let receiver: ReceiverName
    let volume: VolumeName
    let lock: FileLock
}
