// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import ArgumentParser
package import Catalog
internal import Foundation
internal import Platform
package import Wire

extension ReceiverName {
    /// Parses a name from the command line.
    ///
    /// - Throws: the rule for names, if it breaks the rule.
    package static func parse(_ argument: String) throws -> ReceiverName {
        guard let name = ReceiverName(argument) else {
            throw ValidationError("A standby's name has \(ReceiverName.rule).")
        }
        return name
    }
}

extension VolumeName {
    /// Parses a name from the command line.
    ///
    /// - Throws: the rule for names, if it breaks the rule.
    package static func parse(_ argument: String) throws -> VolumeName {
        guard let name = VolumeName(unescaped(argument)) else {
            throw ValidationError("A volume's name has \(VolumeName.rule).")
        }
        return name
    }

    /// Decodes systemd's escapes: in a unit's instance name, `+` arrives as `\x2b`
    /// (systemd-escape(1)). No name contains a backslash itself.
    private static func unescaped(_ text: String) -> String {
        let parts = text.split(separator: "\\x", omittingEmptySubsequences: false)
        return parts.dropFirst().reduce(String(parts.first ?? "")) { result, part in
            guard let byte = UInt8(part.prefix(2), radix: 16), part.count >= 2, byte < 0x80 else {
                return "\(result)\\x\(part)"
            }
            return "\(result)\(Character(Unicode.Scalar(byte)))\(part.dropFirst(2))"
        }
    }
}

/// Checks and conversions of command line arguments.
package enum GivenText {
    /// Accepts `host:port` or `[v6]:port`.
    ///
    /// - Throws: the required form, for any other.
    package static func checkAddress(_ text: String, _ option: String) throws {
        do { _ = try Socket.split(text) } catch { throw ValidationError("\(option): \(error)") }
    }

    /// The absolute path, as the catalog stores it; a relative one starts at the current directory.
    package static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    }
}

/// A duration with a unit: 90s, 90m, 36h, 7d, 4w.
package struct Age: ExpressibleByArgument {
    package let seconds: UInt64

    package init?(argument: String) {
        let units: [Character: UInt64] = ["s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800]
        guard let unit = argument.last.flatMap({ units[$0] }),
            let count = UInt64(argument.dropLast()), count > 0, count <= 100 * 366 * 86_400 / unit
        else { return nil }
        seconds = count * unit
    }
}

/// Limits for how much of the past a command shows.
package struct PastOptions: ParsableArguments {
    @Option(
        name: [.customShort("n"), .long],
        help: ArgumentHelp(
            "Show so many at most (default: 100, with --since all).", valueName: "count"))
    package var limit: Int?
    @Option(
        help: ArgumentHelp("Show none that are older, as 90m, 36h, 7d or 4w.", valueName: "age"))
    package var since: Age?

    package init() {}

    package func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit takes 1 or more.") }
    }

    /// Largest number of entries to read.
    package var count: Int { limit ?? (since == nil ? 100 : 1_000_000_000) }

    /// Whether to show an entry of this time, in nanoseconds since 1970-01-01 UTC.
    package func shows(_ time: UInt64) -> Bool {
        guard let since else { return true }
        let (age, overflow) = since.seconds.multipliedReportingOverflow(by: nanosecondsPerSecond)
        let now = Clock.wall()
        return overflow || age > now || time >= now - age
    }
}
