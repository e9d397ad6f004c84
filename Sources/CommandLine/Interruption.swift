// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What a command says when Ctrl-C or SIGTERM ends it.
package enum Interruption {
    /// From here on the two signals end the program as ever, but it says first what is safe and how to go on. To be called
    /// before a thread is started.
    ///
    /// - Parameters:
    ///   - line: is taken away.
    ///   - state: one sentence, what is safe.
    ///   - next: one sentence, how to go on.
    ///   - isJSON: whether standard output gets an object.
    package static func explain(
        _ line: ProgressLine, isJSON: Bool, next: String, state: @escaping @Sendable () -> String
    ) {
        // Without it the program ends without a word, which does no harm.
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
