// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Synchronization

/// Standard output and standard error.
package enum Terminal {
    /// Whether anything was written to standard output.
    static let hasOutput = Atomic(false)

    private static let isOutputTaken = Atomic(false)

    /// Takes standard output for something else: what is said there goes to standard error from now on.
    package static func takeOutput() { isOutputTaken.store(true, ordering: .relaxed) }

    /// Writes to standard output, without what would move a terminal's cursor. A reader that has gone away is no concern
    /// of ours.
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

    /// Writes to standard error what is no error.
    package static func report(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
    }

    /// Ends the program.
    package static func exit(_ status: ExitStatus) -> Never {
        Foundation.exit(status.rawValue)
    }
}
