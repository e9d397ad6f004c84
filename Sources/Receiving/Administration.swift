// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
internal import Staging
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
        }
    }
}

/// What an operator does on the standby itself.
package struct Administration {
    private let home: StandbyHome

    package init(_ home: StandbyHome) {
        self.home = home
    }

    /// Registers a volume if it is new, and makes an invitation for it.
    ///
    /// - Parameters:
    ///   - targetPath: where the copy goes; for a volume that is registered, nothing or the same path.
    ///   - createFile: makes an empty file if nothing is there.
    ///   - address: what the sender is to connect to.
    package func invite(
        _ name: VolumeName, targetPath: String?, createFile: Bool, address: String, seconds: UInt64
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
            try home.catalog.createVolume(
                name, peer: nil, targetPath: targetPath, targetKind: target.kind,
                targetIdentity: target.identity)
        } else if let targetPath, try home.catalog.volume(name)?.targetPath != targetPath {
            throw CatalogError(
                path: home.path, operation: "invite for volume \(name)",
                kind: .conflict("the volume has another target"))
        }
        let secret = SecureRandom.bytes(16)
        let now = Clock.wall()
        try home.catalog.addInvitation(
            secretHash: SHA256Digest.of(secret), volume: name,
            expiresAt: now + seconds * nanosecondsPerSecond, now: now)
        return Invitation(
            receiver: try home.identity().keyID, secret: secret, volume: name, address: address)
    }

    private func writer(_ name: VolumeName) throws -> VolumeWriter {
        guard try home.catalog.volume(name) != nil else {
            throw AdministrationError.unknownVolume(name)
        }
        guard let writer = try VolumeWriter(home, name) else {
            throw AdministrationError.busy(name)
        }
        return writer
    }

    /// Finishes or drops what is pending, and hands the target over to the operator.
    package func promote(_ name: VolumeName) throws -> StandbyVolume {
        let writer = try writer(name)
        try writer.recover()
        guard writer.volume.state == .consistent || writer.volume.state == .staging else {
            throw AdministrationError.nothingToPromote(name, writer.volume.state)
        }
        try writer.promote()
        return writer.volume
    }

    /// Forgets every generation of a volume, so that a full copy may replace what its target holds.
    package func reset(_ name: VolumeName) throws {
        let writer = try writer(name)
        try writer.reset()
    }

    /// Finishes an interrupted apply, as the daemon does when it starts.
    package func recover(_ name: VolumeName) throws -> StandbyVolume {
        let writer = try writer(name)
        try writer.recover()
        return writer.volume
    }
}
