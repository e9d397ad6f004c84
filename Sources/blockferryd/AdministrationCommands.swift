// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Digests
internal import Foundation
internal import Platform
internal import Receiving
internal import TLS
internal import Wire

struct InviteCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "invite",
        abstract: "Register a volume and print an invitation for its source host.",
        discussion: """
            The invitation is one string, to be given to: blockferry pair. It is good once, for some minutes. The \
            target is the device or file that will hold the copy; everything on it will be replaced. One that holds something \
            already is refused, unless --overwrite says that this may go.

            On a target that is an LVM thin volume past generations can be kept as snapshots: --keep, --keep-for; \
            see: blockferryd keep --help
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Option(
        help: ArgumentHelp(
            "Device or file for the copy; needed the first time.", valueName: "path"))
    var target: String?
    @Flag(help: "Make an empty file if there is nothing at the target's path.")
    var create = false
    @Flag(
        help: "Whatever the target holds may be replaced, and another standby's mark on it is void."
    )
    var overwrite = false
    @Option(help: ArgumentHelp("Keep so many generations at most.", valueName: "count"))
    var keep: UInt64?
    @Option(
        help: ArgumentHelp(
            "Keep no generation longer, as 90m, 36h, 7d or 4w.", valueName: "age"))
    var keepFor: Age?
    @Option(
        help: ArgumentHelp(
            "Where the source host is to connect (default: this host's name, port 7441).",
            valueName: "host:port"))
    var address: String?
    @Option(help: ArgumentHelp("How long the invitation is good.", valueName: "minutes"))
    var minutes: UInt64 = 10
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    func validate() throws {
        guard (1...1440).contains(minutes) else {
            throw ValidationError("--minutes takes 1 to 1440.")
        }
        try Retention.check(keep, "--keep")
        if let address { try GivenText.checkAddress(address, "--address") }
        guard target != "" else { throw ValidationError("--target takes a path.") }
    }

    func run() throws {
        let address = address ?? "\(ProcessInfo.processInfo.hostName):7441"
        let home = try state.home()
        let invitation = try Administration(home).invite(
            volume, targetPath: target.map(GivenText.absolute), createFile: create,
            mayOverwrite: overwrite,
            retention: Retention(keep, keepFor),
            address: address, seconds: minutes * 60)
        if json {
            struct Result: Encodable {
                let schemaVersion = 1
                let volume, address, receiverId, invitation: String
                let validSeconds: UInt64
            }
            return Terminal.out(
                try Format.json(
                    Result(
                        volume: volume.text, address: address,
                        receiverId: "\(invitation.receiver)", invitation: invitation.text,
                        validSeconds: minutes * 60)))
        }
        Terminal.out(invitation.text + "\n")
        if let registered = try home.catalog.volume(volume),
            TargetLook(registered).wastesStorage == true
        {
            Terminal.error("note: \(registered.targetPath) is thin, but \(StatusCommand.waste)")
        }
    }
}

struct VolumesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volumes", abstract: "List the volumes and their targets.")

    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    private struct Entry: Encodable {
        let volume, target, targetKind, state: String
        let peerId: String?
        let keeping: KeptEntry.Keeping?
        let kept: [KeptEntry.Generation]
    }

    func run() throws {
        let home = try state.home()
        let entries = try home.catalog.volumes().map {
            let entry = try KeptEntry(home, $0.name)
            return Entry(
                volume: $0.name.text, target: $0.targetPath,
                targetKind: $0.targetKind == .blockDevice ? "block-device" : "file",
                state: "\($0.state)", peerId: $0.peer.map { "\($0)" }, keeping: entry.keeping,
                kept: entry.kept)
        }
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let volumes: [Entry]
            }
            return Terminal.out(try Format.json(List(volumes: entries)))
        }
        Terminal.out(
            Format.table(
                [["VOLUME", "STATE", "TARGET", "PEER"]]
                    + entries.map { [$0.volume, $0.state, $0.target, $0.peerId ?? "-"] }))
    }
}

struct PeersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "peers", abstract: "List the source hosts that may send.")

    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    private struct Entry: Encodable {
        let name, id, added: String
        let volumes: [String]
    }

    func run() throws {
        let catalog = try state.home().catalog
        let volumes = try catalog.volumes()
        let entries = try catalog.peers().map { peer in
            Entry(
                name: peer.name, id: "\(peer.key)", added: Format.time(peer.addedAt),
                volumes: volumes.filter { $0.peer == peer.key }.map(\.name.text))
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
                [["PEER", "VOLUMES", "ADDED", "ID"]]
                    + entries.map {
                        [
                            Format.escaped($0.name), $0.volumes.joined(separator: ","), $0.added,
                            $0.id,
                        ]
                    }))
    }
}

struct UnpairCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpair", abstract: "Take a source host's right to send away.",
        discussion: """
            The volumes and their copies stay, and belong to nobody until the next invitation for them is redeemed. A \
            session under way ends before it changes anything more.
            """)

    @Argument(help: "The id of the source host, as blockferryd peers shows it.") var id: String
    @OptionGroup var state: StateOptions

    func run() throws {
        let key: KeyID
        do { key = try KeyID(peerID: id) } catch {
            throw ValidationError("\(id) is no id of a host; see: blockferryd peers")
        }
        try state.home().catalog.removePeer(key)
        Terminal.out("\(key) may not send any more\n")
    }
}

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show where each volume stands.",
        discussion: """
            States: empty, initialising (first full copy; not usable), consistent, staging (consistent, the next \
            generation is coming in), prepared (the next generation waits for the others of its group), applying, promoted, diverged, suspect (an I/O error; not to be trusted).

            Ends with 9 if a target is not there, is not the one that was registered, or is smaller than its \
            generation; what it holds is not read.
            """)

    @Argument(help: "Name of a volume; all if left out.", transform: VolumeName.parse) var volume:
        VolumeName?
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    private struct Entry: Encodable {
        let volume, state, target: String
        let generation: UInt64?
        let generationId: String?
        let ageSeconds: UInt64?
        let sourceTime: String?
        /// Whether the source's point in time is over a minute later than the commit by this host's
        /// clock.
        let sourceClockAhead: Bool
        let committed: String?
        /// When the source last confirmed that it still holds the same.
        let confirmed: String?
        /// Why the source's last session was refused or stopped, until a generation is committed or
        /// confirmed.
        let lastRefusal: LastRefusal?
        /// The unfinished transfer, even if its source is disconnected.
        let unfinished: Unfinished?
        let volumeBytes: UInt64?
        let reason: String?
        let targetPresent: Bool
        let targetProblem: String?
        /// Whether one resync may replace a promoted copy.
        let demoted: Bool
        /// Whether the state directory was restored or moved, and the target has not been read in
        /// full since.
        let restored: Bool
        let keeping: KeptEntry.Keeping?
        let kept: [KeptEntry.Generation]
        /// For a target in a thin pool.
        let snapshotsLeft: UInt64?
        /// For a thin target: whether zeros take up storage.
        let wastesStorage: Bool?
    }

    static let waste =
        "zeros take storage there: nothing says that what its pool takes back reads as zeros"
    private struct LastRefusal: Encodable {
        let time, rule, message: String

        init(_ refused: Refused) {
            time = Format.time(refused.time)
            rule = refused.rule
            message = refused.text
        }
    }

    /// A generation that is incomplete or not on its target yet.
    private struct Unfinished: Encodable {
        let generation: UInt64
        /// `full`, `delta` or `resync`.
        let kind: String
        /// Whether content is written directly to the target; the staging log then lists it but
        /// does not contain it.
        let inPlace: Bool
        let stagedBytes: UInt64?
        /// Seconds since the last content arrived.
        let ageSeconds: UInt64?

        init?(_ transfer: StandbyTransfer?, _ log: StagedLog?, _ now: UInt64) {
            guard let transfer else { return nil }
            let head = transfer.begin.head
            generation = head.number
            kind = "\(head.kind)"
            inPlace = transfer.inPlace
            stagedBytes = log?.byteCount
            ageSeconds = log?.writtenAt.map { (now - min(now, $0)) / nanosecondsPerSecond }
        }

        /// The state as text.
        var sentence: String {
            "generation \(generation) is not finished"
                + (stagedBytes.map { ": \(Format.bytes($0)) in the staging log" } ?? "")
                + (ageSeconds.map { ", written \(Format.age(seconds: $0)) ago" } ?? "")
        }
    }

    func run() throws {
        let now = Clock.wall()
        let home = try state.readableHome()
        var volumes = try home.catalog.volumes()
        if let volume {
            volumes = volumes.filter { $0.name == volume }
            guard !volumes.isEmpty else { throw AdministrationError.unknownVolume(volume) }
        }
        let entries = try volumes.map { volume in
            let time = volume.committed?.head.sourceTime
            let entry = try KeptEntry(home, volume.name)
            let look = TargetLook(volume)
            return Entry(
                volume: volume.name.text, state: "\(volume.state)", target: volume.targetPath,
                generation: volume.committed?.head.number,
                generationId: volume.committed.map { "\($0.id)" },
                ageSeconds: time.flatMap {
                    Format.copyAge(
                        $0, committedAt: volume.committedAt, confirmedAt: volume.confirmedAt,
                        now: now)
                },
                sourceTime: time.map(Format.time),
                sourceClockAhead: Format.isAhead(time, of: volume.committedAt),
                committed: volume.committedAt.map(Format.time),
                confirmed: volume.confirmedAt.map(Format.time),
                lastRefusal: volume.refusal.map(LastRefusal.init),
                unfinished: Unfinished(volume.transfer, home.stagedLog(volume.name), now),
                volumeBytes: volume.committed?.head.volumeSize, reason: volume.suspectReason,
                targetPresent: look.isPresent, targetProblem: look.problem,
                demoted: volume.isDemoted, restored: volume.isRestored,
                keeping: entry.keeping, kept: entry.kept,
                snapshotsLeft: Administration(home).snapshotsLeft(volume),
                wastesStorage: look.wastesStorage)
        }
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let volumes: [Entry]
                /// Set if the state cannot be written.
                let note: String?
            }
            Terminal.out(
                try Format.json(List(volumes: entries, note: home.catalog.reading?.sentence)))
        } else {
            Terminal.out(Self.table(entries))
        }
        guard entries.allSatisfy({ $0.targetProblem == nil }) else {
            throw ExitCode(ExitStatus.target.rawValue)
        }
    }

    private static func table(_ entries: [Entry]) -> String {
        let rows = entries.map { entry in
            [
                entry.volume, entry.state,
                entry.generation.map { "\($0) (\((entry.generationId ?? "").prefix(8)))" } ?? "-",
                entry.ageSeconds.map { Format.age(seconds: $0) } ?? "-", entry.committed ?? "-",
                entry.keeping == nil && entry.kept.isEmpty ? "-" : "\(entry.kept.count)",
                Format.escaped(
                    entry.targetProblem ?? entry.reason ?? entry.keeping?.problem.map {
                        "not kept: \($0)"
                    } ?? entry.lastRefusal.map { "refused: \($0.message) (rule \($0.rule))" }
                        ?? (entry.demoted ? "demoted: one resync may replace it" : nil)
                        ?? entry.keeping?.warning.map { "kept: \($0)" }
                        ?? (entry.restored
                            ? "the state was restored or moved: the target is read before it is used"
                            : entry.sourceClockAhead
                                ? "the source's time is ahead: the age counts from the commit"
                                : entry.unfinished?.sentence
                                    ?? (entry.wastesStorage == true ? waste : ""))
                ),
            ]
        }
        return Format.table(
            [["VOLUME", "STATE", "GENERATION", "AGE OF COPY", "COMMITTED", "KEPT", "REASON"]]
                + rows)
    }
}

struct PromoteCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "promote",
        abstract:
            "Take the copy into use: finish or drop what is pending, and refuse the source from now on.",
        discussion: """
            Needs no network. Afterwards the target may be mounted and written. Before, it is looked at: it must be the \
            one that was registered, have the size of the generation, and hold it where some blocks are compared, and nothing else \
            may have it mounted or open for writing. --without-check hands over whatever is there, for emergencies.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Do not look at the target before.") var withoutCheck = false
    @OptionGroup var state: StateOptions

    func run() throws {
        do { try promote() } catch {
            // Promoting must work even if the disk is full.
            guard StandbyHome.giveUpReserve(state.path) else { throw error }
            Terminal.error(
                "the file system of \(state.path) is full: the reserve there was given up; it is made again once there is room"
            )
            try promote()
        }
    }

    private func promote() throws {
        let line = ProgressLine(isWanted: true)
        defer { line.end() }
        let promoted = try Administration(try state.home()).promote(
            volume, isChecked: !withoutCheck
        ) {
            line.show("\(volume)  reading  \(Format.bytes($0.done)) of \(Format.bytes($0.total))")
        }
        line.end()
        let number = promoted.committed?.head.number ?? 0
        if withoutCheck {
            Terminal.error(
                "not checked: whether \(promoted.targetPath) is there, is the target that was registered, and "
                    + "holds generation \(number)")
        }
        Terminal.out("\(volume) promoted at generation \(number): \(promoted.targetPath)\n")
    }
}

struct DemoteCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "demote",
        abstract: "Let one resync from the source host replace a promoted copy.",
        discussion: """
            What was written to the copy since it was promoted is lost with that resync; until then it stays as it is. \
            Refused while the copy is mounted or something has it open. On the source host then: blockferry resync \
            SOURCE --to STANDBY --overwrite-promoted

            --undo takes that back, as long as the resync is not being applied.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Take it back: no resync may replace the copy.") var undo = false
    @Flag(help: "Check whether it may be done, and do nothing.") var dryRun = false
    @OptionGroup var state: StateOptions

    func run() throws {
        try Administration(try state.home())
            .demote(volume, isTakenBack: undo, isDryRun: dryRun)
        Terminal.out(
            undo
                ? "\(volume) \(dryRun ? "would be" : "is") promoted: no resync \(dryRun ? "could" : "may") replace it\n"
                : "\(volume) \(dryRun ? "may be" : "is") demoted: one resync \(dryRun ? "could" : "may") replace it\n"
        )
    }
}

struct ResetCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "reset",
        abstract:
            "Forget every generation of a volume, so that a full copy may replace its target.",
        discussion: """
            The target is not touched, but the next full copy overwrites it. The source host still remembers the old \
            lineage: there, run blockferry forget before the next send.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Needed: says that the copy may be overwritten.") var overwrite = false
    @OptionGroup var state: StateOptions

    func validate() throws {
        guard overwrite else { throw ValidationError("Give --overwrite to confirm.") }
    }

    func run() throws {
        try Administration(try state.home()).reset(volume)
        Terminal.out("\(volume) is empty; the next full copy replaces its target\n")
    }
}

struct IDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "id", abstract: "Print the id of this standby's key.")

    @OptionGroup var state: StateOptions

    func run() throws {
        Terminal.out("\(try state.home().identity().keyID)\n")
    }
}
