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
    /// The directory.
    package let path: String
    /// What is registered, and where each volume stands.
    package let catalog: StandbyCatalog
    /// Who works on logical volumes for this process.
    let volumes: any StandbyVolumes
    /// What is run after each commit by this process.
    package var commitHook: CommitHook?
    /// Whether the fences that are taken leave marks, by which a catalog that was restored is known.
    private let marksFences: Bool

    /// Opens the directory, making what is missing.
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

    /// Opens the directory to look at it: where it cannot be written, only the catalog is read, and nothing is made.
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

    /// Takes room that `promote` can give up if the file system is full by then. Without it everything else works.
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

    /// Gives that room up, if the file system has none.
    ///
    /// - Returns: whether there is more of it now.
    package static func giveUpReserve(_ path: String) -> Bool {
        let reserve = path + "/reserve"
        guard Directory.exists(reserve), let room = try? Directory.availableByteCount(at: path),
            room < reserveByteCount
        else { return false }
        return (try? Directory.remove(reserve)) != nil
    }

    /// Finds out whether the state was restored from a backup, or moved to another file system.
    ///
    /// - Returns: the volumes whose targets will be read as a whole for that, before anything else is done with them.
    package func checkPlace() throws -> [VolumeName] {
        try catalog.checkPlace(marks: path + "/locks")
    }

    /// Refuses a state that this process can use no more, such as one that has another owner by now.
    package func checkAccess() throws {
        for name in ["", "/catalog.sqlite", "/identity.pem"] {
            try Directory.checkAccess(path + name)
        }
        // Those that are missing are made anew.
        for name in ["/locks", "/maps"] where Directory.exists(path + name) {
            try Directory.checkAccess(path + name)
        }
    }

    /// Takes a volume over from whoever wrote to it.
    ///
    /// - Returns: the number to present.
    func takeFence(_ volume: VolumeName) throws -> UInt64 {
        let fence = try catalog.takeFence(volume)
        if marksFences { StandbyCatalog.mark(fence: fence, in: path + "/locks") }
        return fence
    }

    /// This standby's identity, made at first use.
    package func identity() throws -> Identity {
        try IdentityFile.readOrCreate(path + "/identity.pem")
    }

    /// This standby's identity in a process that the daemon has started: one that was lost since then is not made anew
    /// behind the daemon's back, which ends for it.
    func presentIdentity() throws -> Identity {
        try IdentityFile.read(path + "/identity.pem")
    }

    /// The directory of the staging logs, which may be a file system of its own.
    package var stagingPath: String { path + "/staging" }
    /// The key to which export files for this standby are encrypted, made at first use.
    package func exportKey() throws -> RecipientKey {
        try ExportKeyFile.readOrCreate(path + "/export-key.pem")
    }

    /// Where the staging log of a volume is, while it has an unfinished generation.
    package func logPath(_ volume: VolumeName) -> String { "\(stagingPath)/\(volume).log" }

    /// What there is of the staging log of a volume; nothing if there is none, or if this process may not see it.
    package func stagedLog(_ volume: VolumeName) -> StagedLog? {
        guard let status = try? File(path: logPath(volume)).status() else { return nil }
        return StagedLog(byteCount: status.byteCount, writtenAt: status.modifiedAt)
    }

    /// Takes the right to write a volume; nothing if another process has it.
    func lock(_ volume: VolumeName) throws -> FileLock? {
        try FileLock(path: "\(path)/locks/\(volume)")
    }

    /// Removes the staging log of a volume.
    func removeLog(_ volume: VolumeName) throws(SystemCallError) {
        try Directory.remove(logPath(volume))
        try Directory.sync(path + "/staging")
    }
}

/// The staging log of an unfinished generation, from outside.
package struct StagedLog: Equatable, Sendable {
    package var byteCount: UInt64
    /// When something came in last, by the clock of this host: nanoseconds since 1970-01-01 UTC.
    package var writtenAt: UInt64?
}
