// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why an operation on the host's volumes failed.
package enum LVMError: Error, Sendable, CustomStringConvertible {
    /// A command failed.
    case command(CommandError)
    /// The volume does not exist.
    case notFound(String)
    /// A required resource is in use; `reason` names its holder and how to find out more.
    case busy(String)
    /// The thin pool, by its device-mapper name, holds a metadata snapshot that is not ours.
    case metadataSnapshotHeld(String, pool: String)
    /// The volume must not be used, for this reason.
    case refused(String)
    /// A command printed something that this program does not understand.
    case unexpected(String)
    /// Reading or writing one of our files failed.
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
