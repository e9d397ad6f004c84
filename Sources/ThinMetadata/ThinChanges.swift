// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// The change list between two snapshots of a thin volume.
public struct ThinChanges: ChangeList {
    private var difference: MappingDifference
    private let blockByteCount: UInt64
    private let sizes: VolumeSizes?
    /// The full list of the newer snapshot, if the volume has grown.
    private var grown: ThinFullChanges?
    private var coalescer = ChangeCoalescer(volumeByteCount: nil)

    init(
        _ difference: MappingDifference, _ blockByteCount: UInt64, _ sizes: VolumeSizes?,
        grown: ThinFullChanges?
    ) {
        self.difference = difference
        self.blockByteCount = blockByteCount
        self.sizes = sizes
        self.grown = grown
    }

    /// The next entry, or `nil` at the end.
    public mutating func next() throws(ThinMetadataError) -> Change? {
        while let run = try difference.next() {
            guard run.kind != .same,
                let extent = Extent(
                    offset: run.begin * blockByteCount, length: run.length * blockByteCount)
            else { continue }
            let found = Change(extent, run.kind == .leftOnly ? .unmapped : .data)
            guard let recorded = sizes == nil ? found : sizes?.recorded(found) else { continue }
            if let change = coalescer.add(recorded) { return change }
        }
        while let found = try grown?.next() {
            guard let behind = sizes?.grown(found) else { continue }
            if let change = coalescer.add(behind) { return change }
        }
        return coalescer.finish()
    }
}

/// The whole content of a thin volume as a change list, for a full copy.
public struct ThinFullChanges: ChangeList {
    private var mappings: Mappings
    private let blockByteCount: UInt64
    private let volumeByteCount: UInt64
    /// End in bytes of the entries returned so far.
    private var done: UInt64 = 0
    /// Mapped bytes that have not been returned yet.
    private var pending: Extent?
    private var isAtEnd = false

    init(_ mappings: Mappings, _ blockByteCount: UInt64, _ volumeByteCount: UInt64) {
        self.mappings = mappings
        self.blockByteCount = blockByteCount
        self.volumeByteCount = volumeByteCount
    }

    /// The next entry, or `nil` at the end; the entries cover the volume without gaps.
    public mutating func next() throws(ThinMetadataError) -> Change? {
        if pending == nil { try collect() }
        guard let mapped = pending else {
            return take(upTo: volumeByteCount, .unmapped)
        }
        if done < mapped.offset { return take(upTo: mapped.offset, .unmapped) }
        pending = nil
        // Runs that are adjacent in the volume but not on the data device form one extent.
        var end = mapped.end
        while true {
            try collect()
            guard let more = pending, more.offset == end else { break }
            end = more.end
            pending = nil
        }
        return take(upTo: end, .data)
    }

    private mutating func take(upTo end: UInt64, _ kind: ChangeKind) -> Change? {
        defer { done = max(done, end) }
        return Extent(from: done, upTo: end).map { Change($0, kind) }
    }

    /// Fetches the next mapped run, clipped to the volume.
    private mutating func collect() throws(ThinMetadataError) {
        // Read the stream to its end, even past the volume: only that checks all mappings.
        while pending == nil, !isAtEnd {
            guard let run = try mappings.next() else {
                isAtEnd = true
                return
            }
            pending = Extent(
                offset: run.thinBlock * blockByteCount, length: run.length * blockByteCount)?
                .clipped(to: volumeByteCount)
        }
    }
}
