// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The message of a command that Ctrl-C or SIGTERM ends.
package enum Interruption {
    /// From here on the two signals still end the program, but it first reports what is safe and
    /// how to continue. Call it before any thread is started.
    ///
    /// - Parameters:
    ///   - line: the progress line to remove.
    ///   - state: returns one sentence about what is safe.
    ///   - next: one sentence about how to continue.
    ///   - isJSON: also print an object on standard output.
    package static func explain(
        _ line: ProgressLine, isJSON: Bool, next: String, state: @escaping @Sendable () -> String
    ) {
        // Without it the program ends silently, which does no harm.
        guard let signals = try? Process.descriptor(forSignals: [2, 15]) else { return }
        let descriptor = signals.release()
        _ = Thread("signals") {
            while true {
                _ = Socket.waitReadable([descriptor], milliseconds: 60_000)
                guard let signal = Process.takeSignal(from: descriptor) else { continue }
                line.end()
                let message = "interrupted: \(state())"
                Terminal.error(message)
                Terminal.error("next: \(next)")
                if isJSON {
                    ProgramRunner.printFailure(message, next: next, exit: 128 + signal)
                }
                Process.end(bySignal: signal)
            }
        }
    }
}
