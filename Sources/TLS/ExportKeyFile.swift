// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import HPKE

/// Why the file with the export key cannot be used or made.
package enum ExportKeyFileError: Error, CustomStringConvertible {
    case file(IdentityFileError)
    /// It does not contain an X25519 key.
    case content

    package var description: String {
        switch self {
        case .file(let error): "the file export-key.pem: \(error.problem)"
        case .content:
            "the file export-key.pem holds no X25519 key that is not encrypted; restore it from a backup of the state"
        }
    }
}

/// The file with the key to which export files for this standby are encrypted; only its owner can
/// read it.
package enum ExportKeyFile {
    /// Reads the key; makes one at first use.
    package static func readOrCreate(_ path: String) throws(ExportKeyFileError) -> RecipientKey {
        let pem: [UInt8]
        do { pem = try PrivateFile.readOrCreate(path) { RecipientKey.generate().pem } } catch {
            throw .file(error)
        }
        guard let key = RecipientKey(pem: pem) else { throw .content }
        return key
    }
}
