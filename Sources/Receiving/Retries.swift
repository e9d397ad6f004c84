// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// Schedules retries for volumes whose committed generation is not on its target, after a disk
/// error, a lack of space, or the death of the worker.
///
/// The delay starts short and doubles up to ten minutes. A session or `promote` does not wait for
/// it.
struct Retries {
    private static let first = 2 * nanosecondsPerSecond
    private static let longest = 600 * nanosecondsPerSecond
    /// How often to query the catalog when no worker has ended.
    private static let interval = 30 * nanosecondsPerSecond

    private let interrupted: () -> [VolumeName]
    private var attempts: [VolumeName: (due: UInt64, pause: UInt64)] = [:]
    private var lookAt: UInt64 = 0

    init(_ interrupted: @escaping () -> [VolumeName]) { self.interrupted = interrupted }

    /// Notes that a worker has ended, whose volume may need a retry.
    mutating func lookSoon(now: UInt64) { lookAt = min(lookAt, now) }

    /// The volumes to retry now.
    ///
    /// - Parameter now: nanoseconds of the monotonic clock.
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
