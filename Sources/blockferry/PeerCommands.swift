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
            volume, once, for some minutes, for whoever has it: it is asked for at the terminal, or read from standard \
            input or a file. As an argument every user of this host can read it while the command runs, and use it first.

              blockferry pair --name standby1
              ssh standby1 blockferryd invite home --target /dev/backup/home | blockferry pair --invitation - --name standby1
            """)

    @Argument(help: "The invitation, beginning with bf1. Shown to all users of this host, by ps.")
    var invitation: String?
    @Option(
        name: .customLong("invitation"),
        help: ArgumentHelp(
            "Read the invitation from a file; -: from standard input.", valueName: "file"))
    var invitationFile: String?
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
            throw ValidationError("--name: a standby's name has \(ReceiverName.rule).")
        }
        let parsed: Invitation
        do { parsed = try Invitation(text: try invitationText()) } catch let error as WireError {
            throw ValidationError("This is no invitation (\(error)); copy the whole line.")
        }
        let home = try state.home()
        let own = ownName ?? ProcessInfo.processInfo.hostName
        let volume = try Pairing(home, software: software).pair(
            parsed, receiverName: peer, ownName: Format.escaped(own.isEmpty ? "source" : own))
        Terminal.out(
            """
            paired with \(name) (\(parsed.receiver)) for volume \(volume)
            by this host's key \(try home.identity().keyID)
            next: blockferry send SOURCE --to \(name) --volume \(volume)

            """)
    }
}

extension PairCommand {
    /// The invitation, from any of its sources.
    fileprivate func invitationText() throws -> String {
        guard invitation == nil || invitationFile == nil else {
            throw ValidationError("Give the invitation once: as an argument, or by --invitation.")
        }
        if let invitation, invitation != "-" { return invitation }
        if let invitationFile, invitationFile != "-" {
            // A pipe has no size.
            guard let file = FileHandle(forReadingAtPath: invitationFile) else {
                throw ValidationError("The file \(invitationFile) cannot be read.")
            }
            let bytes = try file.read(upToCount: 4096) ?? Data()
            return Self.line(String(decoding: bytes, as: UTF8.self))
        }
        if invitation == nil, invitationFile == nil {
            guard StandardStream.isInputTerminal else {
                throw ValidationError(
                    "There is no terminal to ask for the invitation: give it by --invitation FILE, or --invitation -."
                )
            }
            Terminal.report("Invitation: ")
        }
        return Self.line(readLine() ?? "")
    }

    private static func line(_ text: String) -> String {
        text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

struct PeersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "peers",
        abstract: "List the standbys that this host knows; change their names and addresses.",
        discussion: """
            blockferry peers                                   list them
            blockferry peers --rename OLD NEW                  what was sent there stays known
            blockferry peers --address NAME HOST:PORT          it is reached there from now on
            blockferry peers --contact NAME                    hear the key that export files for it are encrypted to
            blockferry peers --remove NAME                     forget it, and what was sent to it

            Every other contact brings that key too: pair, send, verify, resync.
            """)

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Give a standby another name.", valueName: "old new"),
        transform: ReceiverName.parse)
    var rename: [ReceiverName] = []
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Change where a standby is reached.", valueName: "name host:port"))
    var address: [String] = []
    @Option(
        help: ArgumentHelp("Forget a standby.", valueName: "name"), transform: ReceiverName.parse)
    var remove: ReceiverName?
    @Option(
        help: ArgumentHelp("Greet a standby.", valueName: "name"), transform: ReceiverName.parse)
    var contact: ReceiverName?
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions
    @Flag(help: "Print JSON.") var json = false

    func validate() throws {
        guard rename.isEmpty || rename.count == 2 else {
            throw ValidationError("--rename takes the old name and the new one.")
        }
        if !address.isEmpty {
            guard address.count == 2, ReceiverName(address[0]) != nil else {
                throw ValidationError("--address takes the standby's name, and HOST:PORT.")
            }
            try GivenText.checkAddress(address[1], "--address")
        }
        let changes = [!rename.isEmpty, !address.isEmpty, remove != nil, contact != nil]
            .filter { $0 }.count
        guard changes <= 1 else { throw ValidationError("One change at a time.") }
        if dryRun, changes == 0 || contact != nil {
            throw ValidationError("--dry-run goes with a change.")
        }
    }

    private struct Entry: Encodable {
        let name, address, id, added: String
        let exportKey: Bool
    }

    /// - Returns: whether there was something to change.
    private func change(_ home: SourceHome) throws -> Bool {
        if rename.count == 2 {
            try home.renamePeer(rename[0], to: rename[1], isDryRun: dryRun)
            Terminal.out("\(rename[0]) \(dryRun ? "would be" : "is") called \(rename[1])\n")
        } else if address.count == 2, let name = ReceiverName(address[0]) {
            if !dryRun { try home.catalog.setAddress(name, address[1]) }
            Terminal.out("\(name) \(dryRun ? "would be" : "is") reached at \(address[1])\n")
        } else if let contact {
            let hasKey = try home.contactPeer(contact, software: software)
            Terminal.out(
                "\(contact) answers; "
                    + (hasKey
                        ? "files for it can be exported\n"
                        : "it is of an older version, for which nothing can be exported: upgrade it\n")
            )
        } else if let remove {
            let volumes = try home.removePeer(remove, isDryRun: dryRun)
            let sent = volumes.isEmpty ? "" : ", with what was sent of \(list(volumes))"
            Terminal.out(
                "\(remove) \(dryRun ? "would be" : "is") forgotten\(sent); snapshots kept for it are left over: "
                    + "blockferry cleanup\n")
        } else {
            return false
        }
        return true
    }

    private func list(_ volumes: [VolumeName]) -> String {
        volumes.map(\.text).joined(separator: ", ")
    }

    func run() throws {
        guard try !change(try state.home()) else { return }
        let entries = try state.home().catalog.receivers().map {
            Entry(
                name: $0.name.text, address: $0.address, id: "\($0.key)",
                added: Format.time($0.addedAt), exportKey: $0.exportKey != nil)
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

struct ForgetCommand: ParsableCommand, NamingCommand {
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

    var words: [String: String] { destination.words }

    func run() throws {
        try state.home().forget(destination.receiver, destination.volume)
        Terminal.out("\(destination.volume) on \(destination.receiver) is forgotten\n")
    }
}

struct RenameCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rename",
        abstract: "Follow a volume to the name that its standby has given it.",
        discussion: """
            After blockferryd rename there. What was sent stays known; jobs that name the volume have to be changed.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Argument(help: "Its new name.", transform: VolumeName.parse) var new: VolumeName
    @Option(help: ArgumentHelp("The standby.", valueName: "peer"), transform: ReceiverName.parse)
    var to: ReceiverName
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions

    func run() throws {
        try state.home().renameVolume(volume, to: new, at: to, isDryRun: dryRun)
        Terminal.out("\(volume) on \(to) \(dryRun ? "would be" : "is") called \(new)\n")
    }
}
