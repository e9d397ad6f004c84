// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What the running daemon sees of the host's files, for commands that are run beside it: a unit's sandbox leaves it less than a
/// shell has.
///
/// The daemon writes its mounts down when it starts, and holds a lock for as long as it runs. Mounts that the host makes later
/// are not in there.
package struct ServiceView {
    private static func lockPath(_ home: StandbyHome) -> String { home.path + "/locks/.daemon" }
    private static func mountsPath(_ home: StandbyHome) -> String { home.path + "/locks/.mounts" }

    private let lock: FileLock?

    /// Writes down what this process sees. Two daemons of one state directory leave it to the first.
    package init(writing home: StandbyHome) throws {
        lock = try FileLock(path: Self.lockPath(home))
        if lock != nil { try Directory.replace(Self.mountsPath(home), with: MountTable.own ?? []) }
    }

    /// Refuses a file that the running daemon could not write, or would not find.
    ///
    /// - Parameter path: of a file that may not be there yet.
    static func check(_ path: String, for home: StandbyHome) throws {
        guard Directory.exists(lockPath(home)), try FileLock(path: lockPath(home)) == nil,
            let own = MountTable.own,
            let file = try? File(path: mountsPath(home)),
            let noted = try? file.readBytes(at: 0, count: 1 << 20), !noted.isEmpty
        else { return }
        let directory = Directory.resolved(Directory.parent(of: path))
        let real =
            Directory.exists(path)
            ? Directory.resolved(path)
            : (directory == "/" ? "" : directory) + "/" + Directory.name(of: path)
        guard let here = MountTable(String(decoding: own, as: UTF8.self)).place(of: real),
            let there = MountTable(String(decoding: noted, as: UTF8.self)).place(of: real)
        else { return }
        guard here.device == there.device, here.path == there.path else {
            throw AdministrationError.hiddenFromService(path)
        }
        guard !there.isReadOnly else { throw AdministrationError.readOnlyForService(path) }
    }
}
