// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The two clocks: one to measure with, one to tell people.
package enum Clock {
    /// Nanoseconds of a clock that never goes back. Only differences mean something.
    package static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }

    /// Nanoseconds since 1970-01-01 UTC. May jump; nothing is ordered by it.
    package static func wall() -> UInt64 { read(CLOCK_REALTIME) }

    /// Nanoseconds since the host was started, also while it slept.
    package static func sinceBoot() -> UInt64 { read(CLOCK_BOOTTIME) }

    /// Waits.
    package static func sleep(milliseconds: UInt32) { usleep(milliseconds * 1000) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        // SAFETY: writes the struct passed.
        unsafe clock_gettime(clock, &time)
        // A clock that was set to before 1970 says 0.
        return KernelValues.time(seconds: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec)) ?? 0
    }
}

/// Nanoseconds in one second.
package let nanosecondsPerSecond: UInt64 = 1_000_000_000
