// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Platform

/// Formats numbers for people.
package enum Format {
    /// Bytes with a binary unit: "498.0 MiB".
    package static func bytes(_ count: UInt64) -> String {
        var value = Double(count)
        let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(count) bytes" : String(format: "%.1f %@", value, units[unit])
    }

    /// Seconds with one decimal: "4.8 s".
    package static func seconds(nanoseconds: UInt64) -> String {
        String(format: "%.1f s", Double(nanoseconds) / 1e9)
    }

    /// An age: "4m12s", "3h05m", "6d".
    package static func age(seconds: UInt64) -> String {
        switch seconds {
        case ..<60: "\(seconds)s"
        case ..<3600: "\(seconds / 60)m\(String(format: "%02d", seconds % 60))s"
        case ..<172_800: "\(seconds / 3600)h\(String(format: "%02d", seconds / 60 % 60))m"
        default: "\(seconds / 86_400)d"
        }
    }

    /// Age of a copy in seconds: since the source's point in time or, if the source's clock is
    /// ahead, since the commit; and at most since the source last confirmed that it still holds the
    /// same. Times in the future are ignored; `nil` if no time is left.
    ///
    /// - Parameters: nanoseconds since 1970-01-01 UTC; `committedAt` and `confirmedAt` by the clock of this host.
    package static func copyAge(
        _ sourceTime: UInt64, committedAt: UInt64?, confirmedAt: UInt64?, now: UInt64
    ) -> UInt64? {
        func past(_ time: UInt64?) -> UInt64? { time.flatMap { isFuture($0, now) ? nil : $0 } }
        let copied = min(sourceTime, committedAt ?? sourceTime)
        return [past(copied), past(confirmedAt)].compactMap { $0 }.max()
            .map { now > $0 ? (now - $0) / nanosecondsPerSecond : 0 }
    }

    /// Whether a time of this host's clock is over a minute in the future: the clock was wrong then
    /// or is now.
    package static func isFuture(_ time: UInt64, _ now: UInt64) -> Bool {
        time > now && time - now > 60 * nanosecondsPerSecond
    }

    /// Whether a source's point in time is over a minute later than the commit by this host's
    /// clock.
    package static func isAhead(_ sourceTime: UInt64?, of committedAt: UInt64?) -> Bool {
        guard let sourceTime, let committedAt, sourceTime > committedAt else { return false }
        return sourceTime - committedAt > 60 * nanosecondsPerSecond
    }

    /// The time in UTC as RFC 3339.
    package static func time(_ nanoseconds: UInt64) -> String {
        Date(timeIntervalSince1970: Double(nanoseconds) / 1e9).formatted(.iso8601)
    }

    /// Columns, each as wide as its widest cell.
    package static func table(_ rows: [[String]]) -> String {
        let widths = (rows.first ?? []).indices.map { column in
            rows.map { $0[column].count }.max() ?? 0
        }
        return rows.map { row in
            row.enumerated().map { index, cell in
                index == row.count - 1
                    ? cell : cell.padding(toLength: widths[index] + 2, withPad: " ", startingAt: 0)
            }.joined() + "\n"
        }.joined()
    }

    /// JSON with sorted snake_case keys and a final newline.
    package static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let text = String(decoding: try encoder.encode(value), as: UTF8.self)
        // The encoder leaves characters that can move a cursor or hide text; they occur only in
        // strings.
        guard hasForeign(text) else { return text + "\n" }
        var shown = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            guard isControl(scalar) else {
                shown.append(scalar)
                continue
            }
            for unit in String(scalar).utf16 {
                let digits = String(unit, radix: 16)
                shown +=
                    ("\\u" + String(repeating: "0", count: 4 - digits.count) + digits)
                    .unicodeScalars
            }
        }
        return String(shown) + "\n"
    }

    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: true
        default: false
        }
    }

    /// Whether a text may contain anything but printable ASCII and line breaks.
    private static func hasForeign(_ text: String) -> Bool {
        text.utf8.contains { $0 < 0x20 && $0 != 0x0A || $0 >= 0x7F }
    }

    /// Escapes foreign text to one line without control characters.
    package static func escaped(_ text: String) -> String {
        String(
            String.UnicodeScalarView(text.unicodeScalars.map { isControl($0) ? "?" : $0 }))
    }

    /// Escapes lines with foreign text: of all unprintable characters, only line breaks and tabs
    /// stay.
    package static func escapedLines(_ text: String) -> String {
        guard hasForeign(text) else { return text }
        return String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0 == "\n" || $0 == "\t" || !isControl($0) ? $0 : "?" }))
    }
}
