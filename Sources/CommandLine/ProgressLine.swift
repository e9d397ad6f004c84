// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Platform
internal import Synchronization

/// Progress of a command on standard error: on a terminal one line that is overwritten; elsewhere,
/// if requested, a line every minute.
package final class ProgressLine: Sendable {
    private enum Way {
        case terminal, lines, nothing
    }

    private struct State {
        var last: ContinuousClock.Instant?
        var isShown = false
    }

    private let way: Way
    private let state = Mutex(State())

    /// - Parameters:
    ///   - isWanted: show progress at all.
    ///   - everywhere: show it even if standard error is not a terminal.
    package init(isWanted: Bool, everywhere: Bool = false) {
        way = !isWanted ? .nothing : isatty(2) == 1 ? .terminal : everywhere ? .lines : .nothing
    }

    /// Shows `text`, at most five times a second on a terminal, or once a minute elsewhere.
    package func show(_ text: @autoclosure () -> String) {
        guard way != .nothing else { return }
        let pause: Duration = way == .terminal ? .milliseconds(200) : .seconds(60)
        state.withLock { state in
            // Outside a terminal, the first line also appears after a minute.
            let last = state.last ?? (way == .terminal ? .now - pause : .now)
            state.last = last
            guard .now - last >= pause else { return }
            state.last = .now
            state.isShown = true
            Terminal.report(way == .terminal ? "\r\u{1B}[K" + text() : text() + "\n")
        }
    }

    /// Removes the line.
    package func end() {
        state.withLock { state in
            if state.isShown, way == .terminal { Terminal.report("\r\u{1B}[K") }
            state.isShown = false
        }
    }
}

/// Speed and remaining time, measured from the first value on: what was done before, in an earlier
/// transfer, does not count.
package struct ProgressMeter: Sendable {
    private var began: (time: UInt64, done: UInt64)?
    private var now: (time: UInt64, done: UInt64) = (0, 0)

    package init() {}

    /// Takes the amount done so far.
    ///
    /// - Parameter time: nanoseconds of a monotonic clock.
    package mutating func take(_ done: UInt64, at time: UInt64) {
        if began.map({ done < $0.done || time < $0.time }) ?? true { began = (time, done) }
        now = (time, done)
    }

    /// Bytes per second; `nil` until a second has passed and something was done.
    package var rate: UInt64? {
        guard let began, now.done > began.done, now.time - began.time >= nanosecondsPerSecond
        else { return nil }
        let seconds = Double(now.time - began.time) / Double(nanosecondsPerSecond)
        return UInt64(exactly: (Double(now.done - began.done) / seconds).rounded())
    }

    /// Seconds until all is done; `nil` if the rate is unknown.
    package func secondsLeft(of total: UInt64) -> UInt64? {
        guard let rate, rate > 0, total >= now.done else { return nil }
        return (total - now.done) / rate
    }
}
