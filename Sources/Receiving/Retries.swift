// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// When the volumes are tried again whose committed generation is not on its target: the disk gave an error, there was no
/// room, or the worker was killed.
///
/// Each is tried soon, then after twice as long each time, up to ten minutes. What a session or `promote` does meanwhile
/// does not wait for that.
struct Retries {
    private static let first = 2 * nanosecondsPerSecond
    private static let longest = 600 * nanosecondsPerSecond
    /// How often the catalog is asked although no worker has ended.
    private static let interval = 30 * nanosecondsPerSecond

    private let interrupted: () -> [VolumeName]
    private var attempts: [VolumeName: (due: UInt64, pause: UInt64)] = [:]
    private var lookAt: UInt64 = 0

    init(_ interrupted: @escaping () -> [VolumeName]) { self.interrupted = interrupted }

    /// A worker has ended, whose volume may be one of these.
    mutating func lookSoon(now: UInt64) { lookAt = min(lookAt, now) }

    /// The volumes that are to be tried now.
    ///
    /// - Parameter now: of the monotonic clock, in nanoseconds.
    mutating func due(now: UInt64) -> [VolumeName] {
        guard now >= lookAt || attempts.values.contains(where: { $0.due <= now }) else {
            return []
        }
        lookAt = now + Self.interval
        let found = interrupted()
        attempts = attempts.filter { found.contains($0.key) }
        var due: [VolumeName] = []
        for name in found {
            guard let attempt = attempts[name] else {
                attempts[name] = (now + Self.first, Self.first)
                continue
            }
            guard attempt.due <= now else { continue }
            let pause = min(attempt.pause * 2, Self.longest)
            attempts[name] = (now + pause, pause)
            due.append(name)
        }
        return due
    }
}
