// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Foundation
internal import LVM
internal import Sending
internal import Session
internal import Wire

extension CompressionPolicy: ExpressibleByArgument {}

/// The standby, and the volume's name there.
struct DestinationOptions: ParsableArguments {
    @Option(
        name: .customLong("to"), help: ArgumentHelp("The standby.", valueName: "peer"),
        transform: ReceiverName.parse)
    var receiver: ReceiverName

    @Option(
        help: ArgumentHelp("Name of the volume on the standby.", valueName: "name"),
        transform: VolumeName.parse)
    var volume: VolumeName

    /// Values for the placeholders of a next step.
    var words: [String: String] { ["PEER": receiver.text, "VOLUME": volume.text] }
}

struct SendCommand: ParsableCommand, NamingCommand {
    static let configuration = CommandConfiguration(
        commandName: "send",
        abstract: "Send a volume's point in time to a standby.",
        discussion: """
            The first time everything is sent, later what changed since the generation that the standby holds. \
            An interrupted send is continued by the same command. The command ends when the standby has the \
            generation on its disk.

            Of a logical volume a read-only snapshot is taken, thin or classic as the volume is. It stays until the \
            next send: it is the base of the next change list. Blockferry removes only snapshots that it has made \
            itself. LVM freezes the file system on the volume for the moment of the snapshot.

              blockferry send vg/home --to standby1
              blockferry send vg/db --to standby1 --pre-snapshot 'psql -c CHECKPOINT'
              blockferry send /srv/disk.img --to standby1 --volume disk
              blockferry send /srv/data.img /srv/log.img --to standby1 --group db --volume data --volume log
              blockferry send --thin-metadata tmeta --thin-data tdata --device 3 --volume-size 1073741824 \
            --to standby1 --volume db
              blockferry send --cow-origin origin.img --cow-store cow.img --to standby1 --volume mail
            """)

    @OptionGroup var source: SourceOptions

    @Option(
        name: .customLong("to"), help: ArgumentHelp("The standby.", valueName: "peer"),
        transform: ReceiverName.parse)
    var receiver: ReceiverName

    @Option(
        help: ArgumentHelp(
            """
            Name of the volume on the standby (default: the name of the logical volume); of a group one for each \
            source, in the same order.
            """,
            valueName: "name"), transform: VolumeName.parse)
    var volume: [VolumeName] = []

    @Option(
        help: ArgumentHelp(
            "Send several sources, which are committed on the standby together or not at all.",
            valueName: "name"))
    var group: String?

    @OptionGroup var live: LiveOptions
    @OptionGroup var outcome: OutcomeOptions
    @OptionGroup var progress: ProgressOptions
    @OptionGroup var state: StateOptions

    @Option(
        help: ArgumentHelp(
            "Compress with zstd: auto (while the network is slow), always or never.",
            valueName: "when"))
    var compress = CompressionPolicy.auto

    @Flag(
        help:
            "Send a volume that is smaller than its last generation; the end of the copy is given up."
    )
    var allowShrink = false

    @Option(
        help: ArgumentHelp(
            """
            Distrust the change list: read so many blocks of 64 KiB outside of it, others each time, and refuse the \
            generation if one has changed. 0: none.
            """, valueName: "blocks"))
    var sampleUnchanged: UInt64 = 256

    @Flag(name: [.long, .customShort("n")], help: "Say what would be sent, and change nothing.")
    var dryRun = false

    @Flag(help: "Print the result as JSON.")
    var json = false

    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.")
    var quiet = false

    var words: [String: String] {
        var words = source.words("send", receiver, volume.first)
        // A group's error names its volume.
        if group != nil { words["VOLUME"] = nil }
        return words
    }

    func validate() throws {
        guard group != nil || (source.paths.count <= 1 && volume.count <= 1) else {
            throw ValidationError("Several sources are sent as a group: --group NAME.")
        }
        guard group == nil || source.paths.count > 1 else {
            throw ValidationError("A group has at least two sources.")
        }
        guard !dryRun || !outcome.isUsed else {
            throw ValidationError("--post-success and --post-failure do not go with --dry-run.")
        }
    }

    func run() throws {
        do {
            try send()
        } catch let failure as OutcomeOptions.Failure {
            throw failure
        } catch {
            // Wrong usage is not a failure of the send.
            if !(error is ValidationError) {
                let last = source.paths.compactMap { path in
                    path.split(separator: "/").last.flatMap { VolumeName(String($0)) }
                }
                outcome.failed(
                    error, volume.isEmpty ? last : volume, at: receiver,
                    seconds: live.hookTimeout)
            }
            throw error
        }
    }

    private func send() throws {
        let home = try state.home()
        let found = try source.paths.map { try SourceOptions.liveVolume($0) }
        let names = try names(found)
        let line = SendProgress(
            ProgressLine(
                isWanted: !json && !quiet || progress.progress, everywhere: progress.progress),
            isJSON: json)
        defer { line.end() }
        if dryRun { return try explain(found, names, home) }
        let outcomes = try LastError.noting(names, receiver, home) {
            let live = try live(found)
            guard !live.isEmpty else { return try sendPlain(names, home, line) }
            let volumes = try zip(live, names).map { try liveVolume($0, $1, home) }
            return try LiveSender(home, volumes, self.live.hooks) {
                line.show($0, names)
            }.send()
        }
        line.end()
        try show(outcomes, names)
        try outcome.succeeded(
            outcomes.compactMap(\.last), names, at: receiver, seconds: self.live.hookTimeout)
    }

    private func liveVolume(
        _ found: (group: VolumeGroup, volume: LogicalVolume), _ name: VolumeName, _ home: SourceHome
    ) throws -> LiveVolume {
        try LiveVolume(warning: found.volume, live.volume(options(name)), home: home)
    }

    /// The logical volumes; empty if the sources are of another kind.
    private func live(
        _ found: [(group: VolumeGroup, volume: LogicalVolume)?]
    ) throws -> [(group: VolumeGroup, volume: LogicalVolume)] {
        let live = found.compactMap { $0 }
        guard live.isEmpty || live.count == found.count else {
            throw ValidationError("A group is of logical volumes, or of other sources.")
        }
        return live
    }

    /// Reports what would be sent and changes nothing. The exit code is that of the send.
    private func explain(
        _ found: [(group: VolumeGroup, volume: LogicalVolume)?], _ names: [VolumeName],
        _ home: SourceHome
    ) throws {
        let live = try live(found)
        let explanations: [Sender.Explanation]
        if live.isEmpty {
            try self.live.refuseIfUsed()
            let sources = try openAll(names, home)
            explanations =
                group == nil
                ? [try Sender(home, options(names[0])).explain(sources[0])]
                : try GroupSender(home).explain(
                    zip(sources, names).map {
                        GroupSender.Member(source: $0, options: options($1))
                    })
        } else {
            let volumes = try zip(live, names).map { try liveVolume($0, $1, home) }
            explanations = try LiveSender(home, volumes, self.live.hooks) { _ in }.explain()
        }
        let texts = zip(explanations, names).map { ExplanationText($0, receiver, $1, words) }
        if json, let group {
            Terminal.out(try Format.json(GroupExplanation(group: group, volumes: texts)))
        } else {
            for text in texts {
                if group != nil, !json { Terminal.out("\(text.volume)\n") }
                try text.print(json: json)
            }
        }
        if let refused = texts.compactMap(\.exitStatus).first {
            throw ExitCode(refused.rawValue)
        }
    }

    /// Opens sources that are not logical volumes.
    private func openAll(_ names: [VolumeName], _ home: SourceHome) throws -> [any Source] {
        guard group != nil else { return [try open(names[0], home)] }
        return try source.paths.map {
            try PlainSource(path: $0, allowsUse: source.allowInUse)
        }
    }

    private func open(_ name: VolumeName, _ home: SourceHome) throws -> any Source {
        let replica = try home.catalog.replica(name, at: receiver)
        return try source.open(knownSize: replica?.committed?.head.volumeSize)
    }

    /// The names of the volumes on the standby.
    private func names(
        _ found: [(group: VolumeGroup, volume: LogicalVolume)?]
    ) throws -> [VolumeName] {
        let known = found.compactMap { $0.flatMap { VolumeName($0.volume.name) } }
        let names = volume.isEmpty && known.count == found.count ? known : volume
        let count = max(source.paths.count, 1)
        guard names.count == count, Set(names).count == count else {
            for (path, found) in zip(source.paths, found) where volume.isEmpty {
                try SourceOptions.checkNamed(path, found?.volume)
            }
            throw ValidationError(
                group == nil
                    ? "Name the volume on the standby: --volume NAME."
                    : "Name the volume of each source: --volume NAME, in the same order.")
        }
        guard count <= Int(Limits.groupMembers) else {
            throw ValidationError("A group has at most \(Limits.groupMembers) members.")
        }
        return names
    }

    private func options(_ volume: VolumeName) -> Sender.Options {
        Sender.Options(
            receiver: receiver, volume: volume, compression: compress, allowShrink: allowShrink,
            adoptsSource: source.adoptSource, unchangedSample: sampleUnchanged,
            waitSeconds: live.wait, software: software, notice: SendText.notice(isQuiet: quiet))
    }

    /// Sends sources that are not logical volumes.
    private func sendPlain(
        _ names: [VolumeName], _ home: SourceHome, _ line: SendProgress
    ) throws -> [[Sender.Outcome]] {
        try live.refuseIfUsed()
        if group != nil {
            let members = zip(try openAll(names, home), names).map {
                GroupSender.Member(source: $0, options: options($1))
            }
            let sender = GroupSender(home) { line.show($1, [$0]) }
            return try sender.send(members).map { [$0] }
        }
        let sender = Sender(home, options(names[0])) { line.show($0, names) }
        return [[try sender.send(try openAll(names, home)[0])]]
    }

    private func show(_ outcomes: [[Sender.Outcome]], _ names: [VolumeName]) throws {
        let results = zip(outcomes, names)
        if json {
            let values = results.map { SendResult($0, receiver, $1) }
            if let group {
                return Terminal.out(try Format.json(GroupResult(group: group, volumes: values)))
            }
            return Terminal.out(try Format.json(values[0]))
        }
        if quiet { return }
        for (outcomes, name) in results {
            for outcome in outcomes { Terminal.out(SendText.outcome(outcome, name)) }
        }
    }
}
