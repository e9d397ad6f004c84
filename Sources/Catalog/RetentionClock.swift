// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The time by which kept generations are released.
///
/// The wall clock may jump: a dead battery sets it back, a wrong server years ahead, and released
/// generations do not return. The clock that counts from boot cannot jump, but restarts with each
/// boot. So the wall clock is used while it agrees with the time that can have passed since it was
/// last used.
package struct RetentionClock: Equatable, Sendable {
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    /// Id of the host's boot; empty if unknown.
    package var boot: String
    /// Nanoseconds since that boot.
    package var sinceBoot: UInt64

    /// Nanoseconds by which the clocks may differ.
    static let tolerance: UInt64 = 3600 * 1_000_000_000
    /// Longest time in nanoseconds that a host may have been down; a longer one needs an operator's
    /// confirmation.
    static let longestDown: UInt64 = 86_400 * 1_000_000_000

    package init(time: UInt64, boot: String, sinceBoot: UInt64) {
        self.time = time
        self.boot = boot
        self.sinceBoot = sinceBoot
    }

    /// Advances the time.
    ///
    /// - Parameter found: current readings of this host's clocks.
    /// - Returns: those readings if they are plausible, otherwise the nearest plausible time.
    package func advanced(to found: RetentionClock) -> RetentionClock {
        var earliest = time
        var latest = Self.sum(time, Self.longestDown)
        if !boot.isEmpty, found.boot == boot, found.sinceBoot >= sinceBoot {
            earliest = Self.sum(time, found.sinceBoot - sinceBoot)
            latest = earliest
        }
        var now = found
        if found.time < earliest - min(earliest, Self.tolerance) { now.time = earliest }
        if found.time > Self.sum(latest, Self.tolerance) { now.time = latest }
        return now
    }

    private static func sum(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let (sum, isOver) = left.addingReportingOverflow(right)
        return isOver ? .max : sum
    }
}
