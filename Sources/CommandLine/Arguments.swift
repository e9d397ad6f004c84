// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import ArgumentParser
package import Catalog
internal import Foundation
internal import Platform
package import Wire

extension ReceiverName {
    /// Takes a name from the command line.
    ///
    /// - Throws: what a name may be, if it is none.
    package static func parse(_ argument: String) throws -> ReceiverName {
        guard let name = ReceiverName(argument) else {
            throw ValidationError("A standby's name has \(ReceiverName.rule).")
        }
        return name
    }
}

extension VolumeName {
    /// Takes a name from the command line.
    ///
    /// - Throws: what a name may be, if it is none.
    package static func parse(_ argument: String) throws -> VolumeName {
        guard let name = VolumeName(unescaped(argument)) else {
            throw ValidationError("A volume's name has \(VolumeName.rule).")
        }
        return name
    }

    /// What systemd hands on of a unit's instance as it is written has `\x2b` for `+` (systemd-escape(1)); no name has a
    /// backslash itself.
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

/// What several commands take on the command line.
package enum GivenText {
    /// Takes `host:port` or `[v6]:port` as it is.
    ///
    /// - Throws: the form, if it has another one.
    package static func checkAddress(_ text: String, _ option: String) throws {
        do { _ = try Socket.split(text) } catch { throw ValidationError("\(option): \(error)") }
    }

    /// A path from the root, as the catalog keeps it: of another one, from the directory that the command is given in.
    package static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    }
}

/// A length of time with its unit: 90s, 90m, 36h, 7d, 4w.
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

/// How much of the past a command shows.
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

    /// How many are looked for.
    package var count: Int { limit ?? (since == nil ? 100 : 1_000_000_000) }

    /// Whether one of this time, nanoseconds since 1970-01-01 UTC, is shown.
    package func shows(_ time: UInt64) -> Bool {
        guard let since else { return true }
        let (age, overflow) = since.seconds.multipliedReportingOverflow(by: nanosecondsPerSecond)
        let now = Clock.wall()
        return overflow || age > now || time >= now - age
    }
}
