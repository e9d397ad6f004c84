// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CommandLine
internal import Platform
internal import Sending
internal import Synchronization
internal import Wire

/// Shows the progress of a send, and reports what is safe when the operator interrupts it.
final class SendProgress: Sendable {
    private struct State {
        var report: Sender.Report?
        var volumes: [VolumeName] = []
        var meter = ProgressMeter()
        /// Bytes that the standby has acknowledged, and the total; kept in later phases.
        var sent: (done: UInt64, total: UInt64)?
    }

    private let line: ProgressLine
    private let state = Mutex(State())

    /// - Parameter isJSON: print an object if the program is interrupted.
    init(_ line: ProgressLine, isJSON: Bool) {
        self.line = line
        Interruption.explain(
            line, isJSON: isJSON, next: "the same command again; it goes on from there"
        ) { self.safe() }
    }

    func show(_ report: Sender.Report, _ volumes: [VolumeName]) {
        state.withLock { state in
            if state.report?.phase != report.phase || state.volumes != volumes {
                state.meter = ProgressMeter()
            }
            state.report = report
            state.volumes = volumes
            state.meter.take(report.done, at: Clock.monotonic())
            if report.phase == .sending { state.sent = (report.done, report.total) }
            line.show(SendText.progress(report, volumes, state.meter))
        }
    }

    func end() { line.end() }

    private func safe() -> String {
        guard let (done, total) = state.withLock({ $0.sent }) else {
            return
                "nothing was acknowledged in this session, and what was before is safe on the standby's disk"
        }
        return
            "what the standby has acknowledged, \(Format.bytes(done)) of \(Format.bytes(total)), is safe on its disk"
    }
}

/// Whether a command shows progress if standard error is not a terminal.
struct ProgressOptions: ParsableArguments {
    @Flag(help: "Say how far it is also where standard error is no terminal: a line every minute.")
    var progress = false
}
