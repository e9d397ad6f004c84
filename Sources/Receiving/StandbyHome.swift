// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
package import HPKE
internal import Platform
package import TLS
internal import Volumes
package import Wire

/// The state directory of the standby: identity, catalog, staging logs and locks.
package struct StandbyHome: Sendable {
    /// Path of the directory.
    package let path: String
    /// The registered volumes and their states.
    package let catalog: StandbyCatalog
    /// Operations on logical volumes for this process.
    let volumes: any StandbyVolumes
    /// The hook that this process runs after each commit; `nil` for none.
    package var commitHook: CommitHook?
    /// Whether new fences leave marks that reveal a restored catalog.
    private let marksFences: Bool

    /// Opens the directory and makes what is missing.
    package init(path: String, marksFences: Bool = false) throws {
        self.path = path
        volumes = Volumes.volumes(recordIn: path)
        self.marksFences = marksFences
        try Directory.create(path)
        catalog = try StandbyCatalog(directory: path)
        try Directory.createOwn(path + "/staging")
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
        self.init(path, try StandbyCatalog(reading: path))
    }

    private init(_ path: String, _ catalog: StandbyCatalog) {
        self.path = path
        self.catalog = catalog
        volumes = Volumes.volumes(recordIn: path)
        marksFences = false
    }

    private static let reserveByteCount: UInt64 = 2 << 20

    /// Reserves space that `promote` can release if the file system is full by then. Without the
    /// reserve, everything else works.
    package func keepReserve() {
        let reserve = path + "/reserve"
        guard !Directory.exists(reserve),
            let room = try? Directory.availableByteCount(at: path),
            room > 8 * Self.reserveByteCount
        else { return }
        do {
            let file = try File(path: reserve, [.write, .createNew, .noFollow])
            try file.write([UInt8](repeating: 0, count: Int(Self.reserveByteCount)), at: 0)
            try file.sync()
        } catch {
            try? Directory.remove(reserve)
        }
    }

    /// Releases the reserve if the file system is full.
    ///
    /// - Returns: whether that freed space.
    package static func giveUpReserve(_ path: String) -> Bool {
        let reserve = path + "/reserve"
        guard Directory.exists(reserve), let room = try? Directory.availableByteCount(at: path),
            room < reserveByteCount
        else { return false }
        return (try? Directory.remove(reserve)) != nil
    }

    /// Checks whether the state was restored from a backup or moved to another file system.
    ///
    /// - Returns: the volumes whose targets must be read in full before any other operation.
    package func checkPlace() throws -> [VolumeName] {
        try catalog.checkPlace(marks: path + "/locks")
    }

    /// Refuses a state that this process can no longer use, for example after a change of owner.
    package func checkAccess() throws {
        for name in ["", "/catalog.sqlite", "/identity.pem"] {
            try Directory.checkAccess(path + name)
        }
        // Missing directories are made again.
        for name in ["/locks", "/maps"] where Directory.exists(path + name) {
            try Directory.checkAccess(path + name)
        }
    }

    /// Takes a volume over from its previous writer.
    ///
    /// - Returns: the fencing number to present.
    func takeFence(_ volume: VolumeName) throws -> UInt64 {
        let fence = try catalog.takeFence(volume)
        if marksFences { StandbyCatalog.mark(fence: fence, in: path + "/locks") }
        return fence
    }

    /// This standby's identity; made at first use.
    package func identity() throws -> Identity {
        try IdentityFile.readOrCreate(path + "/identity.pem")
    }

    /// This standby's identity in a process started by the daemon. A missing identity is not made
    /// again here: the daemon ends because of it.
    func presentIdentity() throws -> Identity {
        try IdentityFile.read(path + "/identity.pem")
    }

    /// Directory of the staging logs, which may be a separate file system.
    package var stagingPath: String { path + "/staging" }
    /// The key to which export files for this standby are encrypted; made at first use.
    package func exportKey() throws -> RecipientKey {
        try ExportKeyFile.readOrCreate(path + "/export-key.pem")
    }

    /// Path of a volume's staging log, which exists while a generation is unfinished.
    package func logPath(_ volume: VolumeName) -> String { "\(stagingPath)/\(volume).log" }

    /// Facts of a volume's staging log; `nil` if there is none or this process may not see it.
    package func stagedLog(_ volume: VolumeName) -> StagedLog? {
        guard let status = try? File(path: logPath(volume)).status() else { return nil }
        return StagedLog(byteCount: status.byteCount, writtenAt: status.modifiedAt)
    }

    /// Locks a volume for writing; `nil` if another process holds the lock.
    func lock(_ volume: VolumeName) throws -> FileLock? {
        try FileLock(path: "\(path)/locks/\(volume)")
    }

    /// Removes the staging log of a volume.
    func removeLog(_ volume: VolumeName) throws(SystemCallError) {
        try Directory.remove(logPath(volume))
        try Directory.sync(path + "/staging")
    }
}

/// Visible facts of an unfinished generation's staging log.
package struct StagedLog: Equatable, Sendable {
    package var byteCount: UInt64
    /// Time of the last write by this host's clock, in nanoseconds since 1970-01-01 UTC.
    package var writtenAt: UInt64?
}
