// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
package import Catalog
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
