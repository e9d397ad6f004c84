// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The clocks: monotonic for measuring, wall for people, since boot for elapsed time.
package enum Clock {
    /// Nanoseconds of a monotonic clock. Only differences have a meaning.
    package static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }

    /// Nanoseconds since 1970-01-01 UTC. May jump, so nothing is ordered by it.
    package static func wall() -> UInt64 { read(CLOCK_REALTIME) }

    /// Nanoseconds since boot, including suspended time.
    package static func sinceBoot() -> UInt64 { read(CLOCK_BOOTTIME) }

    package static func sleep(milliseconds: UInt32) { usleep(milliseconds * 1000) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        // SAFETY: writes the struct passed.
        unsafe clock_gettime(clock, &time)
        // A clock set to before 1970 reads 0.
        return KernelValues.time(seconds: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec)) ?? 0
    }
}

/// Nanoseconds in one second.
package let nanosecondsPerSecond: UInt64 = 1_000_000_000
