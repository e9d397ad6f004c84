// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

@Suite("The service manager is told") struct ServiceManagerTests {
    private func manager(_ environment: [String: String], process: Int32 = 7) -> ServiceManager {
        ServiceManager(environment: { environment[$0] }, process: process)
    }

    @Test("a round is not a sign of life each: one in a third of the limit")
    func pace() {
        var found = manager(["WATCHDOG_USEC": "3000000"])
        var due: [UInt64] = []
        for now: UInt64 in [
            5, 999_999_999, 1_000_000_004, 1_000_000_005, 1_000_000_006, 9_000_000_000,
            9_000_000_001,
        ] {
            if found.isDue(now: now) { due.append(now) }
        }
        #expect(due == [5, 1_000_000_005, 9_000_000_000])
    }

    @Test(
        "signs of life are for the process that is watched, and for numbers that can be",
        arguments: [
            ("3000000", nil, true), ("3000000", "7", true), ("3000000", "8", false),
            ("0", "7", false), ("-1", nil, false), ("x", nil, false),
            ("18446744073709551615", nil, false), ("3000000", "x", false),
        ] as [(String, String?, Bool)])
    func watched(_ limit: String, _ process: String?, _ isWatched: Bool) {
        var environment = ["WATCHDOG_USEC": limit]
        environment["WATCHDOG_PID"] = process
        var found = manager(environment)
        let asked = [1, 2, UInt64.max].map { found.isDue(now: $0) }
        #expect(asked == [isWatched, false, isWatched])
    }
}
