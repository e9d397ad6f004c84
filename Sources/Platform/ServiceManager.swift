// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// Reports this process's state to the service manager that started it, as `sd_notify(3)` does;
/// does nothing without one.
package struct ServiceManager {
    /// The reported states.
    package enum State: String {
        /// The service can be used.
        case ready = "READY=1"
        /// The service is alive. If this is late, the service manager kills and restarts it.
        case alive = "WATCHDOG=1"
        /// The service is about to end by itself.
        case stopping = "STOPPING=1"
    }

    private let socket: String?
    /// Nanoseconds between two reports of being alive; `nil` if none are requested.
    private let period: UInt64?
    private var due: UInt64 = 0

    /// The service manager named in this process's environment.
    package init() {
        self.init(environment: Process.environment, process: Process.identifier)
    }

    /// The service manager that an environment names for the process with this id.
    package init(environment: (String) -> String?, process: Int32) {
        socket = environment("NOTIFY_SOCKET")
        period = Self.period(
            environment("WATCHDOG_USEC"), for: environment("WATCHDOG_PID"), process)
    }

    /// A third of the watchdog's limit, so that one report may be late.
    private static func period(
        _ microseconds: String?, for wanted: String?, _ process: Int32
    ) -> UInt64? {
        guard let limit = microseconds.flatMap(UInt64.init), limit > 0,
            wanted == nil || wanted.flatMap(Int32.init) == process
        else { return nil }
        let (nanoseconds, overflow) = limit.multipliedReportingOverflow(by: 1000)
        return overflow ? nil : nanoseconds / 3
    }

    /// Reports a state.
    package func tell(_ state: State) {
        guard let socket else { return }
        // SAFETY: both strings are passed as C strings for the length of the call.
        _ = unsafe clinux_notify(socket, state.rawValue)
    }

    /// Reports that this process is alive, as often as requested. Call it only in each round of the
    /// loop that must not hang.
    ///
    /// - Parameter now: nanoseconds of the monotonic clock.
    package mutating func round(now: UInt64) {
        guard isDue(now: now) else { return }
        tell(.alive)
    }

    /// Whether a report is due; if so, schedules the next one.
    package mutating func isDue(now: UInt64) -> Bool {
        guard let period, now >= due else { return false }
        due = now.addingReportingOverflow(period).partialValue
        return true
    }
}
