// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Counts, for each address, the connections of a minute whose peer was not known, so that nobody can fill the journal.
struct Strangers {
    /// Lines a minute that one address can cause.
    static let limit = 10
    /// Addresses that are remembered; beyond that all others are quiet.
    private static let addressLimit = 4096
    private static let minute = 60 * nanosecondsPerSecond

    private var addresses: [String: (since: UInt64, count: Int)] = [:]

    /// Whether what goes wrong with the next connection from an address is kept from the journal.
    ///
    /// - Parameter open: how many of its connections have not ended yet; each may become a line.
    func isQuiet(_ address: String, open: Int, now: UInt64) -> Bool {
        guard let known = addresses[address], known.since + Self.minute > now else {
            return open >= Self.limit - 1 || addresses.count >= Self.addressLimit
        }
        return known.count + open >= Self.limit - 1
    }

    /// Notes that a connection from an address had no known peer.
    ///
    /// - Returns: whether it was the last one of this minute that is told of.
    mutating func note(_ address: String, now: UInt64) -> Bool {
        addresses = addresses.filter { $0.value.since + Self.minute > now }
        guard addresses[address] != nil || addresses.count < Self.addressLimit else { return false }
        let count = (addresses[address]?.count ?? 0) + 1
        addresses[address] = (addresses[address]?.since ?? now, count)
        return count == Self.limit - 1
    }
}
