// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CommandLine
import Testing

@Suite struct ProgressTests {
    private static let second: UInt64 = 1_000_000_000

    @Test("the rate is that of this session, also of a transfer that goes on")
    func resumed() {
        var meter = ProgressMeter()
        #expect(meter.rate == nil && meter.secondsLeft(of: 100) == nil)
        // Nine tenths were there before.
        meter.take(900, at: 7 * Self.second)
        #expect(meter.rate == nil)
        meter.take(910, at: 7 * Self.second + 1)
        #expect(meter.rate == nil, "too little was seen")
        meter.take(920, at: 9 * Self.second)
        #expect(meter.rate == 10 && meter.secondsLeft(of: 1000) == 8)
        // It has stood still since.
        meter.take(920, at: 17 * Self.second)
        #expect(meter.rate == 2 && meter.secondsLeft(of: 1000) == 40)
    }

    @Test("what goes back begins anew, and nothing is divided by nothing")
    func odd() {
        var meter = ProgressMeter()
        meter.take(500, at: 5 * Self.second)
        meter.take(100, at: 6 * Self.second)
        #expect(meter.rate == nil)
        meter.take(100, at: 60 * Self.second)
        #expect(meter.rate == nil && meter.secondsLeft(of: 500) == nil)
        meter.take(.max, at: .max)
        #expect(meter.secondsLeft(of: 0) == nil)
        meter.take(5, at: 0)
        meter.take(6, at: 3 * Self.second)
        #expect(meter.rate == 0 && meter.secondsLeft(of: .max) == nil)
    }
}
