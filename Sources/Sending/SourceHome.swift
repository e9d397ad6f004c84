// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
package import TLS
package import Wire

/// The state directory of a source host: identity, catalog and plans.
package struct SourceHome: Sendable {
    /// Path of the directory.
    package let path: String
    /// The standbys, and the state of each volume on each.
    package let catalog: SourceCatalog

    /// Opens the directory and makes what is missing.
    package init(path: String) throws {
        self.path = path
        try Directory.create(path)
        catalog = try SourceCatalog(directory: path)
        try Directory.createOwn(path + "/plans")
        try Directory.createOwn(path + "/locks")
        try Directory.createOwn(path + "/maps")
    }

    /// Opens the directory for inspection: if it cannot be written, only the catalog is read, and
    /// nothing is made.
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

    /// This host's identity; made at first use.
    package func identity() throws -> Identity {
        try IdentityFile.readOrCreate(path + "/identity.pem")
    }

    /// Takes the lock for sending a volume to a standby, held for the lifetime of the result.
    ///
    /// A command that only tests the lock holds it for a moment; this call waits for that.
    ///
    /// - Throws: `busy` if another process holds it.
    package func lock(_ receiver: ReceiverName, _ volume: VolumeName) throws -> SendLock {
        let file = "\(path)/locks/\(volume)@\(receiver)"
        guard let lock = try FileLock.waiting(Self.lockPatience, path: file) else {
            throw SendError.busy(volume)
        }
        return SendLock(receiver: receiver, volume: volume, lock: lock)
    }

    /// How long to wait for the lock, in nanoseconds.
    private static let lockPatience = nanosecondsPerSecond / 2

    /// Forgets all records of a volume on a standby.
    package func forget(_ receiver: ReceiverName, _ volume: VolumeName) throws {
        let lock = try lock(receiver, volume)
        defer { withExtendedLifetime(lock) {} }
        if let plan = try catalog.forgetReplica(volume, at: receiver).transfer?.planName {
            removePlan(plan)
        }
        map(receiver, volume).remove()
    }

    /// Records that the kernel has invalidated a classic snapshot, wherever that is the base: its
    /// store no longer names all writes, although it may look intact after the next activation.
    package func noteGivenUp(_ snapshot: String) {
        // The next command that looks sees it too, while the snapshot stays active.
        let known = (try? catalog.replicas()) ?? []
        for replica in known where replica.baseIdentity?.snapshotUUID == snapshot {
            try? catalog.setBaseGivenUp(replica.volume, at: replica.receiver, replica.base)
        }
    }

    /// Records the export key that a standby has sent.
    func note(_ exportKey: X25519Key?, of receiver: Receiver) throws {
        guard let exportKey, exportKey != receiver.exportKey else { return }
        try catalog.setExportKey(exportKey, of: receiver.key)
    }

    /// The tag map of a volume on a standby.
    func map(_ receiver: ReceiverName, _ volume: VolumeName) -> SourceMap {
        SourceMap("\(path)/maps/\(volume)@\(receiver)")
    }

    /// File name of a transfer's plan. It contains the transfer's id, so no other transfer's plan
    /// or seals are mistaken for its own, even after standby or volume are renamed. No name
    /// contains the separator.
    func planName(
        _ receiver: ReceiverName, _ volume: VolumeName, _ transfer: TransferID
    ) -> String { "\(volume)@\(receiver)@\(transfer)" }

    /// Removes the plans of a volume on a standby that a crash has left: no catalog names them.
    func removeLostPlans(_ receiver: ReceiverName, _ volume: VolumeName) throws {
        let begin = "\(volume)@\(receiver)@"
        // A renamed replica keeps the plan it has.
        let known = Set(try catalog.replicas().compactMap { $0.transfer?.planName })
        for file in try Directory.names(in: path + "/plans") where file.hasPrefix(begin) {
            let name = file.hasSuffix(Self.seals) ? String(file.dropLast(Self.seals.count)) : file
            if !known.contains(name) { removePlan(name) }
        }
        // Version 0.1.0 used this name.
        let former = "\(volume)@\(receiver)"
        if !known.contains(former) { removePlan(former) }
    }

    private static let seals = ".seals"

    /// Path of the plan with this name.
    func planPath(_ name: String) -> String { "\(path)/plans/\(name)" }

    /// Path of its seals.
    func sealsPath(_ name: String) -> String { planPath(name) + Self.seals }

    /// Removes a plan and its seals. They are no longer needed, so a failure does not matter.
    func removePlan(_ name: String) {
        try? Directory.remove(planPath(name))
        try? Directory.remove(sealsPath(name))
    }
}

/// The exclusive right to send a volume to a standby.
package struct SendLock: Sendable {
    let receiver: ReceiverName
    let volume: VolumeName
    let lock: FileLock
}
