// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Connection
internal import Session
package import Wire

// Renames and removes standbys and volumes. On this host, the snapshots of a removed standby become
// leftovers (`cleanup`); all others stay bases, whatever their tags say.

extension SourceHome {
    /// Renames a standby.
    ///
    /// 1. The catalog takes the new name, with all replicas. A crash before leaves everything
    ///    unchanged.
    /// 2. The maps are renamed. A crash before leaves them behind: they are made again by reading
    ///    the source.
    package func renamePeer(
        _ name: ReceiverName, to new: ReceiverName, isDryRun: Bool
    ) throws {
        let volumes = try volumes(at: name)
        if isDryRun {
            // Lock each volume for a moment only: a concurrent send must not find it busy.
            for volume in volumes { _ = try lock(name, volume) }
            if try catalog.receiver(new) == nil { return }
        }
        let locks = try volumes.map { try lock(name, $0) }
        defer { withExtendedLifetime(locks) {} }
        try catalog.renameReceiver(name, to: new)
        for volume in volumes { try map(name, volume).move(to: map(new, volume)) }
    }

    /// Removes a standby and all records of what was sent to it.
    ///
    /// - Returns: the volumes that had been sent.
    package func removePeer(_ name: ReceiverName, isDryRun: Bool) throws -> [VolumeName] {
        let volumes = try volumes(at: name)
        guard !isDryRun else { return volumes }
        for volume in volumes { try forget(name, volume) }
        try catalog.removeReceiver(name)
        return volumes
    }

    /// Gives a volume the name that its standby has given it. A crash leaves the same as in
    /// `renamePeer`.
    package func renameVolume(
        _ volume: VolumeName, to new: VolumeName, at receiver: ReceiverName, isDryRun: Bool
    ) throws {
        let lock = try lock(receiver, volume)
        defer { withExtendedLifetime(lock) {} }
        if isDryRun, try catalog.replica(volume, at: receiver) != nil,
            try catalog.replica(new, at: receiver) == nil
        {
            return
        }
        try catalog.renameReplica(volume, to: new, at: receiver)
        try map(receiver, volume).move(to: map(receiver, new))
    }

    /// Connects to a standby to receive what it sends to every known peer: its key for export
    /// files.
    ///
    /// - Returns: whether it has one; standbys of older versions do not.
    package func contactPeer(_ name: ReceiverName, software: String) throws -> Bool {
        guard let receiver = try catalog.receiver(name) else {
            throw SendError.unknownReceiver(name)
        }
        let dialogue = try Dialogue(
            to: receiver.address, expecting: receiver.key, try identity(), .greet,
            software: software)
        guard case .greeted = try dialogue.next() else {
            throw SendError.brokenProtocol("no greeting")
        }
        dialogue.connection.close()
        try note(dialogue.session.exportKey, of: receiver)
        return dialogue.session.exportKey != nil
    }

    private func volumes(at name: ReceiverName) throws -> [VolumeName] {
        guard try catalog.receiver(name) != nil else {
            throw CatalogError(
                path: path, operation: "change the standby \(name)",
                kind: .notFound("standby \(name)"))
        }
        return try catalog.replicas().filter { $0.receiver == name }.map(\.volume)
    }
}
