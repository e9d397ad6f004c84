// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
package import TLS
package import Wire

/// The state directory of the standby: identity, catalog, staging logs and locks.
package struct StandbyHome: Sendable {
    /// The directory.
    package let path: String
    /// What is registered, and where each volume stands.
    package let catalog: StandbyCatalog

    /// Opens the directory, making what is missing.
    package init(path: String) throws {
        self.path = path
        try Directory.create(path)
        catalog = try StandbyCatalog(directory: path)
        try Directory.createOwn(path + "/staging")
        try Directory.createOwn(path + "/locks")
        try Directory.createOwn(path + "/maps")
    }

    /// This standby's identity, made at first use.
    package func identity() throws -> Identity {
        try IdentityFile.readOrCreate(path + "/identity.pem")
    }

    /// Where the staging log of a volume is, while it has an unfinished generation.
    package func logPath(_ volume: VolumeName) -> String { "\(path)/staging/\(volume).log" }

    /// Takes the right to write a volume; nothing if another process has it.
    func lock(_ volume: VolumeName) throws -> FileLock? {
        try FileLock(path: "\(path)/locks/\(volume)")
    }

    /// Takes one of a peer's sessions; nothing if it has all that it may have. The names are none of a volume.
    func lockSession(_ peer: KeyID) throws -> FileLock? {
        for number in 1...Limits.peerSessions {
            if let lock = try FileLock(path: "\(path)/locks/.\(peer).\(number)") { return lock }
        }
        return nil
    }

    /// Removes the staging log of a volume.
    func removeLog(_ volume: VolumeName) throws(SystemCallError) {
        try Directory.remove(logPath(volume))
        try Directory.sync(path + "/staging")
    }
}
