// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
package import Staging
internal import TLS
package import Wire

/// Why a volume cannot be registered or changed.
package enum AdministrationError: Error, CustomStringConvertible {
    /// The name breaks the rule for volume names.
    case badName(String)
    /// No volume has this name.
    case unknownVolume(VolumeName)
    /// A session has the volume.
    case busy(VolumeName)
    /// There is no complete generation to hand over.
    case nothingToPromote(VolumeName, VolumeState)
    /// The committed generation is not on its target yet, and cannot be brought there now.
    case notApplied(VolumeName, number: UInt64, TargetError)
    /// There is no complete generation to compare the target with.
    case nothingToScrub(VolumeName, VolumeState)
    /// A volume that was not promoted needs no demotion.
    case notPromoted(VolumeName, VolumeState)
    /// Generations cannot be kept on this target.
    case cannotKeep(String)

    package var description: String {
        switch self {
        case .badName(let name):
            "\(name) is no volume name: 1 to 63 of a-z, 0-9, '.', '_', '-', beginning with a letter or "
                + "digit"
        case .unknownVolume(let name): "there is no volume \(name); see: blockferryd volumes"
        case .busy(let name):
            "a session has the volume \(name); wait for it, or stop blockferryd"
        case .nothingToPromote(let name, let state):
            "volume \(name) is \(state): it holds no complete generation"
        case .notApplied(let name, let number, let error):
            "generation \(number) of volume \(name) is committed, but cannot be written to its target: \(error). The "
                + "staging log holds all of it: mend the target or make room, then give the same command again"
        case .nothingToScrub(let name, let state):
            "volume \(name) is \(state): there is no generation that its target should be"
        case .notPromoted(let name, let state):
            "volume \(name) is \(state), not promoted: a resync needs no leave to replace its content"
        case .cannotKeep(let path):
            "generations are kept as snapshots in a thin pool, and \(path) is no LVM thin volume"
        }
    }
}

/// What an operator does on the standby itself.
package struct Administration {
    let home: StandbyHome

    package init(_ home: StandbyHome) {
        self.home = home
    }

    /// Registers a volume if it is new, and makes an invitation for it.
    ///
    /// - Parameters:
    ///   - targetPath: where the copy goes; for a volume that is registered, nothing or the same path.
    ///   - createFile: makes an empty file if nothing is there.
    ///   - retention: which generations to keep; nothing changes nothing.
    ///   - address: what the sender is to connect to.
    package func invite(
        _ name: VolumeName, targetPath: String?, createFile: Bool, retention: Retention?,
        address: String, seconds: UInt64
    ) throws -> Invitation {
        if try home.catalog.volume(name) == nil {
            guard let targetPath else { throw AdministrationError.unknownVolume(name) }
            if createFile, !Directory.exists(targetPath) {
                let file = try File(path: targetPath, [.write, .createNew])
                try file.sync()
                try Directory.sync(Directory.parent(of: targetPath))
            }
            // Opened as a writer would, so that what is mounted or read-only is found now.
            let target = try Target(path: targetPath, registered: nil)
            if retention != nil { try checkKeeping(on: targetPath) }
            try home.catalog.createVolume(
                name, peer: nil, targetPath: targetPath, targetKind: target.kind,
                targetIdentity: target.identity)
        } else if let targetPath, try home.catalog.volume(name)?.targetPath != targetPath {
            throw CatalogError(
                path: home.path, operation: "invite for volume \(name)",
                kind: .conflict("the volume has another target"))
        }
        if let retention { try setRetention(name, retention) }
        let secret = SecureRandom.bytes(16)
        let now = Clock.wall()
        try home.catalog.addInvitation(
            secretHash: SHA256Digest.of(secret), volume: name,
            expiresAt: now + seconds * nanosecondsPerSecond, now: now)
        return Invitation(
            receiver: try home.identity().keyID, secret: secret, volume: name, address: address)
    }

    private func checkKeeping(on path: String) throws {
        guard Keeper.isPossible(on: try File(path: path).status()) else {
            throw AdministrationError.cannotKeep(path)
        }
    }

    private func setRetention(_ name: VolumeName, _ retention: Retention) throws {
        guard let volume = try home.catalog.volume(name) else {
            throw AdministrationError.unknownVolume(name)
        }
        try checkKeeping(on: volume.targetPath)
        if try home.catalog.retention(name) != retention {
            try home.catalog.setRetention(name, retention)
        }
    }

    /// Changes which generations of a volume are kept, and does at once what that asks for, unless a session has the
    /// volume: then the session's own end does.
    ///
    /// - Returns: what could not be done at once.
    package func keep(_ name: VolumeName, _ retention: Retention) throws -> String? {
        try setRetention(name, retention)
        guard let writer = try VolumeWriter.soon(home, name) else {
            return "\(AdministrationError.busy(name))"
        }
        return try Keeper(home, writer.volume).keepNow()
    }

    func writer(_ name: VolumeName) throws -> VolumeWriter {
        guard try home.catalog.volume(name) != nil else {
            throw AdministrationError.unknownVolume(name)
        }
        guard let writer = try VolumeWriter.soon(home, name) else {
            throw AdministrationError.busy(name)
        }
        return writer
    }

    /// Finishes or drops what is pending, and hands the target over to the operator.
    ///
    /// A generation whose group is complete is finished; one that waits for its group is dropped, so that the
    /// group cannot become complete any more. Other members of the group are finished when they are promoted.
    package func promote(_ name: VolumeName) throws -> StandbyVolume {
        let writer = try writer(name)
        do { try writer.recover() } catch let error as TargetError {
            guard writer.volume.state == .applying, let record = writer.volume.applying else {
                throw error
            }
            throw AdministrationError.notApplied(name, number: record.head.number, error)
        }
        if writer.volume.state == .prepared {
            do { try writer.abandon() } catch let error as CatalogError {
                // The last member came in meanwhile.
                guard case .conflict = error.kind else { throw error }
                try writer.refresh()
                try writer.recover()
            }
        }
        guard writer.volume.state == .consistent || writer.volume.state == .staging else {
            throw AdministrationError.nothingToPromote(name, writer.volume.state)
        }
        try writer.promote()
        return writer.volume
    }

    /// Lets one resync overwrite a promoted copy. Refused while anything has the target open or mounted.
    ///
    /// - Parameter isDryRun: checks, and allows nothing.
    package func demote(_ name: VolumeName, isDryRun: Bool) throws {
        let writer = try writer(name)
        guard writer.volume.state == .promoted else {
            throw AdministrationError.notPromoted(name, writer.volume.state)
        }
        _ = try writer.openTarget()
        if !isDryRun { try writer.demote() }
    }

    /// Forgets every generation of a volume, so that a full copy may replace what its target holds.
    package func reset(_ name: VolumeName) throws {
        let writer = try writer(name)
        try writer.reset()
    }
}
