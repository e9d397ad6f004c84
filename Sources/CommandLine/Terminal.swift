// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Synchronization

/// Standard output and standard error.
package enum Terminal {
    /// Whether standard output has been written to.
    static let hasOutput = Atomic(false)

    private static let isOutputTaken = Atomic(false)

    /// Reserves standard output for other data; from now on its messages go to standard error.
    package static func takeOutput() { isOutputTaken.store(true, ordering: .relaxed) }

    /// Writes to standard output, without characters that move a terminal's cursor. Ignores a
    /// reader that is gone.
    package static func out(_ text: String) {
        let text = Format.escapedLines(text)
        hasOutput.store(true, ordering: .relaxed)
        if isOutputTaken.load(ordering: .relaxed) { return report(text) }
        try? FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
    }

    /// Writes one line to standard error.
    package static func error(_ line: String) {
        try? FileHandle.standardError.write(contentsOf: Data((Format.escaped(line) + "\n").utf8))
    }

    /// Writes a message that is not an error to standard error.
    package static func report(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
    }

    package static func exit(_ status: ExitStatus) -> Never {
        Foundation.exit(status.rawValue)
    }
}
