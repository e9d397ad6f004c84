// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Connection
internal import Session
package import Wire

/// Redeems an invitation: proves the receiver's key, shows the secret, and keeps the standby in the catalog.
package struct Pairing {
    private let home: SourceHome
    private let software: String

    package init(_ home: SourceHome, software: String) {
        self.home = home
        self.software = software
    }

    /// - Parameters:
    ///   - receiverName: what the standby is to be called here.
    ///   - ownName: what this host is to be called there.
    package func pair(
        _ invitation: Invitation, receiverName: String, ownName: String
    ) throws -> VolumeName {
        if let known = try home.catalog.receiver(receiverName), known.key != invitation.receiver {
            throw CatalogError(
                path: home.path, operation: "add the standby \(receiverName)",
                kind: .conflict("the name belongs to another key"))
        }
        let dialogue = try Dialogue(
            to: invitation.address, expecting: invitation.receiver, try home.identity(),
            .pair(Pair(secret: invitation.secret, name: ownName)), software: software)
        guard case .pair(let pair) = try dialogue.next() else {
            throw SendError.brokenProtocol("no greeting")
        }
        try dialogue.connection.send(pair)
        guard case .paired(let volume) = try dialogue.next() else {
            throw SendError.brokenProtocol("no answer to the secret")
        }
        try home.catalog.addReceiver(
            receiverName, key: invitation.receiver, address: invitation.address)
        dialogue.connection.close()
        return volume
    }
}
