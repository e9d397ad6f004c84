// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Receiving
internal import Wire

struct KeepCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "keep",
        abstract:
            "Keep past generations of a volume as snapshots of its target, or show those kept.",
        discussion: """
            For targets that are LVM thin volumes. Each generation becomes a read-only thin snapshot when it is \
            committed; the oldest are removed as soon as one of the limits says so, the newest never. They are \
            removed when the next generation comes in, when blockferryd starts, and by this command; the oldest also before their \
            time, where the thin pool has no room for the next generation. What --off has left is yours, also when generations \
            are kept again.

            blockferryd keep db --generations 24            at most 24
            blockferryd keep db --generations 24 --for 7d   at most 24, and none committed over 7 days ago
            blockferryd keep db --off                       no new ones; those there are yours to remove
            blockferryd keep db                             change nothing, show what is kept

            The limits given replace those there were. A generation is older than --for by how long before the newest it \
            was committed. Where the clock of this host has gone further than time can have passed, nothing is released by \
            it; if it is right all the same: --trust-clock. To look into a kept generation:
            lvchange -ay -K VG/SNAPSHOT; mount -o ro,noload /dev/VG/SNAPSHOT /mnt

            Makes LVM's changes itself, and needs the rights for that, as the daemon does: see deploy/README.md.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Option(help: ArgumentHelp("Keep so many at most.", valueName: "count"))
    var generations: UInt64?
    @Option(
        name: .customLong("for"),
        help: ArgumentHelp(
            "Keep none that was committed longer before the newest, as 90m, 36h, 7d or 4w.",
            valueName: "age"))
    var age: Age?
    @Flag(help: "Keep no more generations; remove none.") var off = false
    @Flag(help: "Release by the clock of this host, although it has made a leap: it is right.")
    var trustClock = false
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    func validate() throws {
        try Retention.check(generations, "--generations")
        if off, generations != nil || age != nil {
            throw ValidationError("--off goes with neither --generations nor --for.")
        }
    }

    func run() throws {
        let home = try state.home()
        guard try home.catalog.volume(volume) != nil else {
            throw AdministrationError.unknownVolume(volume)
        }
        var problem: String?
        if off {
            try home.catalog.setRetention(volume, nil)
        } else if let retention = Retention(generations, age) {
            problem = try Administration(home).keep(volume, retention)
        }
        if trustClock { problem = try Administration(home).trustClock(volume) }
        if let problem { Terminal.error("not done yet, but wanted from now on: \(problem)") }
        let entry = try KeptEntry(home, volume)
        if let warning = entry.keeping?.warning { Terminal.error("warning: \(warning)") }
        try show(entry)
        if problem != nil { throw ExitCode(ExitStatus.failed.rawValue) }
    }

    private func show(_ entry: KeptEntry) throws {
        if json {
            struct Result: Encodable {
                let schemaVersion = 1
                let volume: String
                let keeping: KeptEntry.Keeping?
                let kept: [KeptEntry.Generation]
            }
            return Terminal.out(
                try Format.json(
                    Result(volume: volume.text, keeping: entry.keeping, kept: entry.kept)))
        }
        Terminal.out("\(volume) keeps \(entry.keeping?.sentence ?? "no generations")\n")
        guard !entry.kept.isEmpty else { return }
        Terminal.out(
            Format.table(
                [["GENERATION", "POINT IN TIME", "COMMITTED", "SNAPSHOT"]]
                    + entry.kept.map {
                        [
                            "\($0.generation) (\($0.generationId.prefix(8)))", $0.sourceTime,
                            $0.committed, $0.snapshot,
                        ]
                    }))
    }
}

/// Kept generations as `status`, `volumes` and `keep` show them.
struct KeptEntry {
    /// The limits.
    struct Keeping: Encodable {
        let generations: UInt64?
        let forSeconds: UInt64?
        /// Why a generation could not be kept or released.
        let problem: String?
        /// A warning despite success: space that runs short, or generations that gave way to the
        /// copy.
        let warning: String?

        var sentence: String {
            let limits = [
                generations.map { "at most \($0) generation\($0 == 1 ? "" : "s")" },
                forSeconds.map { "none longer than \(Format.age(seconds: $0))" },
            ].compactMap { $0 }.joined(separator: ", ")
            return limits + (problem.map { "; not as wanted: \(Format.escaped($0))" } ?? "")
        }
    }

    /// One kept generation.
    struct Generation: Encodable {
        let generation: UInt64
        let generationId, sourceTime, committed, snapshot: String
    }

    let keeping: Keeping?
    /// Newest first.
    let kept: [Generation]

    init(_ home: StandbyHome, _ volume: VolumeName) throws {
        let problem = try home.catalog.retentionProblem(volume)
        let warning = try home.catalog.retentionWarning(volume)
        keeping = try home.catalog.retention(volume).map {
            Keeping(
                generations: $0.generations, forSeconds: $0.seconds, problem: problem,
                warning: warning)
        }
        kept = try home.catalog.kept(volume).map {
            Generation(
                generation: $0.number, generationId: "\($0.id)",
                sourceTime: Format.time($0.sourceTime), committed: Format.time($0.committedAt),
                snapshot: $0.snapshot)
        }
    }
}

extension Retention {
    /// The limits from the command line; `nil` if there are none.
    init?(_ generations: UInt64?, _ age: Age?) {
        if generations == nil, age == nil { return nil }
        self.init(generations: generations, seconds: age?.seconds)
    }

    static func check(_ generations: UInt64?, _ option: String) throws {
        if let generations, !(1...10_000).contains(generations) {
            throw ValidationError("\(option) takes 1 to 10000.")
        }
    }
}
