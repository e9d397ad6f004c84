// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Connection
internal import Session
internal import TLS
package import Wire

/// Redeems an invitation: verifies the receiver's key, sends the secret, and adds the standby to
/// the catalog.
package struct Pairing {
    private let home: SourceHome
    private let software: String

    package init(_ home: SourceHome, software: String) {
        self.home = home
        self.software = software
    }

    /// - Parameters:
    ///   - receiverName: name of the standby on this host.
    ///   - ownName: name of this host on the standby.
    package func pair(
        _ invitation: Invitation, receiverName: ReceiverName, ownName: String
    ) throws -> VolumeName {
        if let known = try home.catalog.receiver(receiverName), known.key != invitation.receiver {
            throw CatalogError(
                path: home.path, operation: "add the standby \(receiverName)",
                kind: .conflict("the name belongs to another key"))
        }
        // With two names for one key, each would find the other's generations and refuse them.
        let known = try home.catalog.receivers().filter { $0.key == invitation.receiver }
        if let first = known.first, !known.contains(where: { $0.name == receiverName }) {
            throw SendError.otherName(receiverName, known: first.name)
        }
        let dialogue: Dialogue
        do {
            dialogue = try Dialogue(
                to: invitation.address, expecting: invitation.receiver, try home.identity(),
                .pair(Pair(secret: invitation.secret, name: ownName)), software: software)
        } catch TLSError.wrongALPN {
            // A standby offers pairing only while it has an open invitation.
            throw SendError.refused(
                Refusal(
                    .invitation,
                    "the invitation is used or expired; if this host has not used it, another one has"
                ))
        }
        guard case .pair(let pair) = try dialogue.next() else {
            throw SendError.brokenProtocol("no greeting")
        }
        try dialogue.connection.send(pair)
        guard case .paired(let volume) = try dialogue.next() else {
            throw SendError.brokenProtocol("no answer to the secret")
        }
        if try home.catalog.receiver(receiverName)?.address != invitation.address {
            try home.catalog.addReceiver(
                receiverName, key: invitation.receiver, address: invitation.address)
        }
        if let receiver = try home.catalog.receiver(receiverName) {
            try home.note(dialogue.session.exportKey, of: receiver)
        }
        dialogue.connection.close()
        return volume
    }
}
