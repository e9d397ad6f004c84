// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// How much more than usual a campaign does.
package enum LongRun {
    /// How many times the ordinary number of generated cases there are, each time of other seeds:
    /// `BLOCKFERRY_ROUNDS`, or 1.
    package static let rounds =
        ProcessInfo.processInfo.environment["BLOCKFERRY_ROUNDS"].flatMap { Int($0) } ?? 1
}
