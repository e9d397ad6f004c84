// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Sending

/// How to send a logical volume in use.
struct LiveOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            Logical volume outside a thin pool: size of the new snapshot's store, as 512M, 10G or 15% (of the \
            volume). Default: three times the largest change of late, which is forgotten by half in two weeks; at \
            first 20%. It must hold what is written \
            until the next send is done.
            """, valueName: "size"))
    var cowSize: StoreSize?

    @Option(
        help: ArgumentHelp(
            """
            Logical volume outside a thin pool: chunk size of the new snapshot, 4K to 512K (default: LVM's). What \
            changed is known, and sent, in whole chunks.
            """, valueName: "size"))
    var cowChunk: StoreSize?

    @Option(
        help: ArgumentHelp(
            """
            Seconds to wait for a session, if the standby has none left, and while another program reads the metadata of \
            the thin pool, as a pool lets only one do so.
            """, valueName: "seconds"))
    var wait = 30

    @Option(
        help: ArgumentHelp(
            """
            Run by 'sh -c' right before the snapshot is taken, with the volume's name as $1. If it fails, nothing \
            is sent.
            """, valueName: "command"))
    var preSnapshot: String?

    @Option(
        help: ArgumentHelp(
            """
            Run right after the snapshot was taken, and also if that fails, if the first command fails, or if \
            blockferry is killed: so a frozen file system is always thawed.
            """, valueName: "command"))
    var postSnapshot: String?

    @Option(
        help: ArgumentHelp(
            "Seconds that each command of the user may take.", valueName: "seconds"))
    var hookTimeout = 60

    func validate() throws {
        if case .percent? = cowChunk { throw ValidationError("--cow-chunk takes a size, as 64K.") }
        guard (0...86_400).contains(wait), (1...86_400).contains(hookTimeout) else {
            throw ValidationError("--wait and --hook-timeout take seconds, up to a day.")
        }
    }

    /// Whether any of the options was given.
    private var isUsed: Bool {
        cowSize != nil || cowChunk != nil || preSnapshot != nil || postSnapshot != nil
    }

    /// Refuses the options for a source that is not a logical volume.
    func refuseIfUsed() throws {
        guard !isUsed else {
            throw ValidationError(
                "--cow-size, --cow-chunk and the hooks belong to a logical volume.")
        }
    }

    func volume(_ options: Sender.Options) -> LiveVolume.Options {
        LiveVolume.Options(
            sender: options, storeSize: cowSize, chunkByteCount: cowChunk?.byteCount,
            waitSeconds: wait)
    }

    var hooks: SnapshotHooks {
        SnapshotHooks(before: preSnapshot, after: postSnapshot, seconds: hookTimeout)
    }
}

extension StoreSize: ExpressibleByArgument {
    package init?(argument: String) {
        guard let unit = argument.last else { return nil }
        if unit == "%" {
            guard let percent = UInt64(argument.dropLast()), (1...100).contains(percent) else {
                return nil
            }
            self = .percent(percent)
            return
        }
        let units: [Character: UInt64] = [
            "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
        ]
        let factor = units[Character(unit.lowercased())]
        guard let number = UInt64(factor == nil ? argument : String(argument.dropLast())),
            number > 0
        else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: factor ?? 1)
        if overflow { return nil }
        self = .bytes(bytes)
    }
}

extension StoreSize {
    /// `nil` for a percentage.
    fileprivate var byteCount: UInt64? {
        if case .bytes(let count) = self { return count }
        return nil
    }
}
