// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Foundation
internal import Platform
internal import Sending
internal import TLS
internal import Wire

struct PairCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pair",
        abstract: "Make a standby known by an invitation.",
        discussion: """
            On the standby: blockferryd invite VOLUME --target DEVICE prints the invitation. It is good for one \
            volume, once, for some minutes.
            """)

    @Argument(help: "The invitation, beginning with bf1.") var invitation: String
    @Option(
        help: ArgumentHelp("What the standby is to be called here.", valueName: "peer"))
    var name = "standby"
    @Option(
        help: ArgumentHelp(
            "What this host is to be called there (default: its host name).", valueName: "name"))
    var ownName: String?
    @OptionGroup var state: StateOptions

    func run() throws {
        guard let peer = ReceiverName(name) else {
            throw ValidationError("--name takes 1 to 64 of a-z, 0-9, '.', '_', '-'.")
        }
        let parsed: Invitation
        do { parsed = try Invitation(text: invitation) } catch {
            throw ValidationError("This is no invitation (\(error)); copy the whole line.")
        }
        let own = ownName ?? ProcessInfo.processInfo.hostName
        let volume = try Pairing(try state.home(), software: software).pair(
            parsed, receiverName: peer, ownName: Format.escaped(own.isEmpty ? "source" : own))
        Terminal.out(
            """
            paired with \(name) (\(parsed.receiver)) for volume \(volume)
            next: blockferry send SOURCE --to \(name) --volume \(volume)

            """)
    }
}

struct PeersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "peers", abstract: "List the standbys that this host knows.")

    @OptionGroup var state: StateOptions
    @Flag(help: "Print JSON.") var json = false

    private struct Entry: Encodable {
        let name, address, id, added: String
    }

    func run() throws {
        let entries = try state.home().catalog.receivers().map {
            Entry(
                name: $0.name.text, address: $0.address, id: "\($0.key)",
                added: Format.time($0.addedAt))
        }
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let peers: [Entry]
            }
            return Terminal.out(try Format.json(List(peers: entries)))
        }
        Terminal.out(
            Format.table(
                [["PEER", "ADDRESS", "ID"]] + entries.map { [$0.name, $0.address, $0.id] }))
    }
}

struct IDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "id", abstract: "Print the id of this host's key.")

    @OptionGroup var state: StateOptions

    func run() throws {
        Terminal.out("\(try state.home().identity().keyID)\n")
    }
}

struct ForgetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forget",
        abstract: "Forget what was sent of a volume, so that it can be sent from the beginning.",
        discussion: """
            For a volume that the standby has lost or reset (there: blockferryd reset). The next send is a full copy, \
            which the standby takes only for a volume that holds nothing. Snapshots that were kept for it are removed \
            by: blockferry cleanup.
            """)

    @OptionGroup var destination: DestinationOptions
    @OptionGroup var state: StateOptions

    func run() throws {
        try state.home().forget(destination.receiver, destination.volume)
        Terminal.out("\(destination.volume) on \(destination.receiver) is forgotten\n")
    }
}
