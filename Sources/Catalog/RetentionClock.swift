// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The time by which generations are released.
///
/// The wall clock may jump: a dead battery takes it back, a wrong server years ahead, and what is released does not come back.
/// The clock that counts from the start of the host cannot, but says nothing across a start. So the wall clock is believed as
/// long as it agrees with the time that can have passed since it was believed last.
package struct RetentionClock: Equatable, Sendable {
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    /// Which start of the host; empty if that is not known.
    package var boot: String
    /// Nanoseconds since then.
    package var sinceBoot: UInt64

    /// Nanoseconds by which clocks may disagree.
    static let tolerance: UInt64 = 3600 * 1_000_000_000
    /// How long a host may have been down, in nanoseconds. What is longer is for somebody who knows to say.
    static let longestDown: UInt64 = 86_400 * 1_000_000_000

    package init(time: UInt64, boot: String, sinceBoot: UInt64) {
        self.time = time
        self.boot = boot
        self.sinceBoot = sinceBoot
    }

    /// The time now.
    ///
    /// - Parameter found: what the clocks of this host say.
    /// - Returns: what they say if that can be; else the nearest time that can.
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
