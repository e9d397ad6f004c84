// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The running daemon's view of the host's files, for commands that run beside it: the daemon's
/// sandbox sees less than a shell.
///
/// The daemon records its mounts when it starts and when they change, and holds a lock while it
/// runs.
package final class ServiceView {
    private static func lockPath(_ home: StandbyHome) -> String { home.path + "/locks/@daemon" }
    private static func mountsPath(_ home: StandbyHome) -> String { home.path + "/locks/@mounts" }

    private let home: StandbyHome
    private var lock: FileLock?
    private var written: [UInt8]?
    /// How long the daemon may take to record a mount, in nanoseconds.
    private static let patience = 3 * nanosecondsPerSecond

    /// Records what this process sees. With two daemons on one state directory, the first does it
    /// while it runs.
    package init(writing home: StandbyHome) throws {
        self.home = home
        try refresh()
    }

    /// Records changes; call it every second.
    package func refresh() throws {
        let mounts = MountTable.own ?? []
        if lock == nil { lock = try FileLock(path: Self.lockPath(home)) }
        guard lock != nil, mounts != written else { return }
        try Directory.replace(Self.mountsPath(home), with: mounts)
        written = mounts
    }

    /// Refuses a file that the running daemon could not write or find.
    ///
    /// - Parameter path: path of the file, which may not exist yet.
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
