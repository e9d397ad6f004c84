// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// Finds the strips of a map's file that may contain anything but zeros; skips holes and what lies
/// past the file's end without reading (Protocol/TagMap.md, 3).
struct StoredStrips {
    /// The part of a strip to look for.
    enum Part {
        case digests
        case all

        var byteCount: UInt64 {
            switch self {
            case .digests: UInt64(TagMapFormat.unit)
            case .all: TagMapFormat.stripByteCount
            }
        }
    }

    private let file: File
    private let part: Part
    private let byteCount: UInt64
    /// Number of strips in the map.
    private let end: UInt64
    /// The last reported data range of the file after the strips that are done; a hole precedes it.
    private var data: Range<UInt64> = 0..<0

    init(_ file: File, _ part: Part, end: UInt64) throws(SystemCallError) {
        self.file = file
        self.part = part
        self.end = end
        byteCount = try file.status().byteCount
    }

    /// The first such strip at or after `strip`; call it in ascending order.
    mutating func next(from strip: UInt64) throws(SystemCallError) -> UInt64? {
        var strip = strip
        while strip < end {
            let start = TagMapFormat.position(ofStrip: strip)
            if start >= data.upperBound {
                guard let more = try file.nextData(from: start, size: byteCount) else { return nil }
                data = more
            }
            if data.lowerBound < start + part.byteCount { return strip }
            // The data starts after this part of the strip, or in a later strip.
            strip = max(strip + 1, TagMapFormat.strip(at: data.lowerBound))
        }
        return nil
    }
}
