// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What the running daemon sees of the host's files, for commands that are run beside it: a unit's sandbox leaves it less than a
/// shell has.
///
/// The daemon writes its mounts down when it starts and when they have changed, and holds a lock for as long as it runs.
package final class ServiceView {
    private static func lockPath(_ home: StandbyHome) -> String { home.path + "/locks/@daemon" }
    private static func mountsPath(_ home: StandbyHome) -> String { home.path + "/locks/@mounts" }

    private let home: StandbyHome
    private var lock: FileLock?
    private var written: [UInt8]?
    /// How long a mount may take until the daemon has written it down, in nanoseconds.
    private static let patience = 3 * nanosecondsPerSecond

    /// Writes down what this process sees. Two daemons of one state directory leave it to the first, for as long as that runs.
    package init(writing home: StandbyHome) throws {
        self.home = home
        try refresh()
    }

    /// Writes down what has changed; to be called every second.
    package func refresh() throws {
        let mounts = MountTable.own ?? []
        if lock == nil { lock = try FileLock(path: Self.lockPath(home)) }
        guard lock != nil, mounts != written else { return }
        try Directory.replace(Self.mountsPath(home), with: mounts)
        written = mounts
    }

    /// Refuses a file that the running daemon could not write, or would not find.
    ///
    /// - Parameter path: of a file that may not be there yet.
    static func check(_ path: String, for home: StandbyHome) throws {
        let due = Clock.monotonic() + patience
        while let problem = try problem(path, home) {
            guard Clock.monotonic() < due else { throw problem }
            Clock.sleep(milliseconds: 100)
        }
    }

    private static func problem(_ path: String, _ home: StandbyHome) throws -> AdministrationError?
    {
        guard Directory.exists(lockPath(home)), try FileLock(path: lockPath(home)) == nil,
            let own = MountTable.own,
            let file = try? File(path: mountsPath(home)),
            let noted = try? file.readBytes(at: 0, count: 1 << 20), !noted.isEmpty
        else { return nil }
        let directory = Directory.resolved(Directory.parent(of: path))
        let real =
            Directory.exists(path)
            ? Directory.resolved(path)
            : (directory == "/" ? "" : directory) + "/" + Directory.name(of: path)
        guard let here = MountTable(String(decoding: own, as: UTF8.self)).place(of: real),
            let there = MountTable(String(decoding: noted, as: UTF8.self)).place(of: real)
        else { return nil }
        guard here.device == there.device, here.path == there.path else {
            return .hiddenFromService(path)
        }
        return there.isReadOnly ? .readOnlyForService(path) : nil
    }
}
