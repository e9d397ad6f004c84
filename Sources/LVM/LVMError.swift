// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why the host's volumes did not give what was asked.
package enum LVMError: Error, Sendable, CustomStringConvertible {
    /// A command failed.
    case command(CommandError)
    /// There is no such volume.
    case notFound(String)
    /// Somebody else has what is needed; `reason` says who, and how to find out more.
    case busy(String)
    /// The thin pool, by device-mapper's name, holds a metadata snapshot that is not ours.
    case metadataSnapshotHeld(String, pool: String)
    /// It is there, but must not be used; `reason` says why.
    case refused(String)
    /// A command said something that this program does not understand.
    case unexpected(String)
    /// Reading or writing a file of our own failed.
    case system(SystemCallError)

    package var description: String {
        switch self {
        case .command(let error): error.description
        case .notFound(let name): "there is no logical volume \(name)"
        case .busy(let reason), .metadataSnapshotHeld(let reason, _), .refused(let reason),
            .unexpected(let reason):
            reason
        case .system(let error): error.description
        }
    }
}
