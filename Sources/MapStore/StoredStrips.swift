// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// Finds the strips of a map's file that may hold something: holes, and what lies past its end, are zeros and are passed over
/// without being read (Protocol/TagMap.md, 3).
struct StoredStrips {
    /// What of a strip counts.
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
    /// How many strips the map has.
    private let end: UInt64
    /// What the file has behind the strips that are done, as it said last; in front of it is a hole.
    private var data: Range<UInt64> = 0..<0

    init(_ file: File, _ part: Part, end: UInt64) throws(SystemCallError) {
        self.file = file
        self.part = part
        self.end = end
        byteCount = try file.status().byteCount
    }

    /// The first strip from `strip` on; strips are asked for in ascending order.
    mutating func next(from strip: UInt64) throws(SystemCallError) -> UInt64? {
        var strip = strip
        while strip < end {
            let start = TagMapFormat.position(ofStrip: strip)
            if start >= data.upperBound {
                guard let more = try file.nextData(from: start, size: byteCount) else { return nil }
                data = more
            }
            if data.lowerBound < start + part.byteCount { return strip }
            // The data begin behind what counts of this strip, or in a later one.
            strip = max(strip + 1, TagMapFormat.strip(at: data.lowerBound))
        }
        return nil
    }
}
