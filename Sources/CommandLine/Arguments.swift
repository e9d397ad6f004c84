// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
package import Catalog
internal import Foundation
internal import Platform
package import Wire

extension ReceiverName {
    /// Takes a name from the command line.
    ///
    /// - Throws: what a name may be, if it is none.
    package static func parse(_ argument: String) throws -> ReceiverName {
        guard let name = ReceiverName(argument) else {
            throw ValidationError("A standby's name has \(ReceiverName.rule).")
        }
        return name
    }
}

extension VolumeName {
    /// Takes a name from the command line.
    ///
    /// - Throws: what a name may be, if it is none.
    package static func parse(_ argument: String) throws -> VolumeName {
        guard let name = VolumeName(argument) else {
            throw ValidationError("A volume's name has \(VolumeName.rule).")
        }
        return name
    }
}

/// What several commands take on the command line.
package enum GivenText {
    /// Takes `host:port` or `[v6]:port` as it is.
    ///
    /// - Throws: the form, if it has another one.
    package static func checkAddress(_ text: String, _ option: String) throws {
        do { _ = try Socket.split(text) } catch { throw ValidationError("\(option): \(error)") }
    }

    /// A path from the root, as the catalog keeps it: of another one, from the directory that the command is given in.
    package static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    }
}
