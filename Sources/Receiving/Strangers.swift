// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Counts the connections of unknown peers per address and minute, so that they cannot flood the
/// journal.
struct Strangers {
    /// Largest number of lines per minute and address.
    static let limit = 10
    /// Largest number of addresses to remember; beyond that, all others are quiet.
    private static let addressLimit = 4096
    private static let minute = 60 * nanosecondsPerSecond

    private var addresses: [String: (since: UInt64, count: Int)] = [:]

    /// Whether the journal omits what goes wrong with the next connection from an address.
    ///
    /// - Parameter open: number of its connections that have not ended yet; each may cause a line.
    func isQuiet(_ address: String, open: Int, now: UInt64) -> Bool {
        guard let known = addresses[address], known.since + Self.minute > now else {
            return open >= Self.limit - 1 || addresses.count >= Self.addressLimit
        }
        return known.count + open >= Self.limit - 1
    }

    /// Counts a connection from an address without a known peer.
    ///
    /// - Returns: whether it was the last one that the journal reports in this minute.
    mutating func note(_ address: String, now: UInt64) -> Bool {
        addresses = addresses.filter { $0.value.since + Self.minute > now }
        guard addresses[address] != nil || addresses.count < Self.addressLimit else { return false }
        let count = (addresses[address]?.count ?? 0) + 1
        addresses[address] = (addresses[address]?.since ?? now, count)
        return count == Self.limit - 1
    }
}
