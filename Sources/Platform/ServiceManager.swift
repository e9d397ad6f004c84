// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// The service manager that has started this process: told how it is doing, as `sd_notify(3)` does. Without one nobody is told.
package struct ServiceManager {
    /// What it is told.
    package enum State: String {
        /// The service can be used.
        case ready = "READY=1"
        /// It still goes round; missed for too long, the service manager ends it and starts another one.
        case alive = "WATCHDOG=1"
        /// It ends by itself, soon.
        case stopping = "STOPPING=1"
    }

    private let socket: String?
    /// Nanoseconds between two signs of life; nil if none is wanted.
    private let period: UInt64?
    private var due: UInt64 = 0

    /// The one that the environment names.
    package init() {
        self.init(environment: Process.environment, process: Process.identifier)
    }

    /// The one that an environment names to the process of this number.
    package init(environment: (String) -> String?, process: Int32) {
        socket = environment("NOTIFY_SOCKET")
        period = Self.period(
            environment("WATCHDOG_USEC"), for: environment("WATCHDOG_PID"), process)
    }

    /// A third of what it waits for: one sign may be late.
    private static func period(
        _ microseconds: String?, for wanted: String?, _ process: Int32
    ) -> UInt64? {
        guard let limit = microseconds.flatMap(UInt64.init), limit > 0,
            wanted == nil || wanted.flatMap(Int32.init) == process
        else { return nil }
        let (nanoseconds, overflow) = limit.multipliedReportingOverflow(by: 1000)
        return overflow ? nil : nanoseconds / 3
    }

    /// Tells it.
    package func tell(_ state: State) {
        guard let socket else { return }
        // SAFETY: both strings are passed as C strings for the length of the call.
        _ = unsafe clinux_notify(socket, state.rawValue)
    }

    /// Says that this process is alive, as often as that is wanted. To be called in each round of the loop that must not stand
    /// still, and from nowhere else.
    ///
    /// - Parameter now: the monotonic clock.
    package mutating func round(now: UInt64) {
        guard isDue(now: now) else { return }
        tell(.alive)
    }

    /// Whether it wants a sign of life now; if so, the next one later.
    package mutating func isDue(now: UInt64) -> Bool {
        guard let period, now >= due else { return false }
        due = now.addingReportingOverflow(period).partialValue
        return true
    }
}
