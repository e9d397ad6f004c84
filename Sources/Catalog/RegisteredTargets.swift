// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// A target of a standby on this host, for a program that would read it as a source.
package struct RegisteredTarget: Sendable {
    package var volume: VolumeName
    package var path: String
    /// The registered identity (`StandbyVolume.targetIdentity`).
    package var identity: String
    package var state: VolumeState

    /// All targets of the standby with this state directory. Makes, migrates and writes nothing.
    package static func all(in directory: String) throws(CatalogError) -> [RegisteredTarget] {
        let path = directory + "/catalog.sqlite"
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(10)
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            return try queue.read { db in
                try Row.fetchAll(db, sql: "SELECT * FROM volume ORDER BY name").map { row in
                    let columns = Columns(row)
                    return RegisteredTarget(
                        volume: try columns.volumeName("name"),
                        path: try columns.text("target_path"),
                        identity: try columns.text("target_identity"),
                        state: try columns.enumerated("state", VolumeState.self))
                }
            }
        } catch {
            throw Store.wrap(error, path, "list the targets")
        }
    }
}
