// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import TagMap
internal import Wire

extension Sender {
    /// Makes the tag map of a source under its lineage's key by reading all of it, and reports the
    /// reason.
    func scan(_ source: any Source, _ replica: Replica, _ reason: String) throws -> TagMapFile {
        guard let key = replica.tagKey, let algorithm = replica.tagAlgorithm else {
            throw SendError.fault("the catalog has no tag key")
        }
        // A plain source is read in full each time; for others, report it.
        if source.identity.kind != .file, source.identity.kind != .device {
            options.notice(
                "\(options.volume): all of \(source.name) is read and compared with what the standby holds "
                    + "(\(source.volumeByteCount) bytes): \(reason)")
        }
        let made = try scan(source, Tagger(algorithm, key: key))
        comparison = Comparison(reason: reason, read: made.read)
        return made.map
    }

    /// Ensures that the root of a resumed generation can be computed. If the map or the collected
    /// updates are lost, it reads the source again.
    func completeDraft(_ source: any Source, _ begin: Begin, _ replica: Replica) throws {
        guard !map.hasDraft(begin, parent: replica.committed) else { return }
        let scan = try scan(source, replica, "the tag map of the unfinished generation is gone")
        try map.begin(begin, scan: scan)
    }

    /// Makes the tag map of a source by reading all that it maps.
    ///
    /// - Parameters:
    ///   - first, count: the range of pages to read; a count of 0 means all.
    ///   - poll: called between reads.
    /// - Returns: also the bytes read.
    func scan(
        _ source: any Source, _ tagger: Tagger, first: UInt64 = 0, count: UInt64 = 0,
        poll: () throws -> Void = {}
    ) throws -> (map: TagMapFile, read: UInt64) {
        // Write the list down first: while listing, some sources hold a resource that others wait
        // for.
        let listPath = try map.scratch.path("list")
        map.scratch.remove("list")
        defer { map.scratch.remove("list") }
        let list = try SendPlan(
            writing: listPath, transfer: .random(), volumeByteCount: source.volumeByteCount,
            source.forEachExtent)
        let made = try map.makeScan(tagger.algorithm, volumeByteCount: source.volumeByteCount)
        var builder = MapBuilder(made, tagger, first: first, count: count)
        let memory = AlignedBuffer(byteCount: Limits.recordContent)
        let unit = MapShape.blockByteCount
        let wanted = builder.bytes
        var next = wanted.lowerBound
        try list.forEach { change in
            guard change.kind == .data else { return }
            var start = max(next, change.extent.offset / unit * unit)
            let end = min(
                (change.extent.end - 1) / unit * unit + unit, source.volumeByteCount,
                wanted.upperBound)
            while start < end {
                let length = min(UInt64(memory.byteCount), end - start)
                guard let part = Extent(offset: start, length: length) else { return }
                try source.read(part, into: memory)
                try builder.add(at: start, memory, count: Int(length))
                start += length
                report(Report(phase: .reading, done: builder.byteCount, total: list.content))
                try poll()
            }
            next = max(next, end)
        }
        try builder.finish()
        return (made, builder.byteCount)
    }

    /// The change list of a source that cannot make one: the blocks whose content differs from what
    /// the standby holds and, for a volume that grew, everything past its old end.
    func difference(
        _ source: any Source, _ known: TagMapFile, _ scan: TagMapFile,
        _ body: (Change) throws -> Void
    ) throws {
        let oldEnd =
            known.shape.volumeByteCount / MapShape.blockByteCount
            * MapShape.blockByteCount
        let hasGrown = source.volumeByteCount > known.shape.volumeByteCount
        var blocks = BlockRuns(scan.shape)
        try MapDifference(scan) { try known.children($0) }.forEach { block, _ in
            if hasGrown, block * MapShape.blockByteCount >= oldEnd { return }
            try blocks.add(block, body)
        }
        try blocks.finish(body)
        if hasGrown {
            let sizes = VolumeSizes(older: oldEnd, newer: source.volumeByteCount)
            try source.forEachExtent { change in
                if let behind = sizes.grown(change) { try body(behind) }
            }
        }
    }

    /// Compares some blocks outside the change list with the map. The sample advances with each
    /// generation.
    ///
    /// - Throws: `SourceError.noProof` if one differs: the change list is wrong, or the source has
    ///   changed.
    func checkUnchanged(
        _ source: any Source, _ plan: SendPlan, _ known: TagMapFile, _ base: Base,
        _ replica: Replica
    ) throws {
        guard let key = replica.tagKey, let number = base.record?.head.number,
            options.unchangedSample > 0
        else { return }
        let shape = MapShape(volumeByteCount: source.volumeByteCount)
        let total = min(shape.blockCount, known.shape.blockCount)
        let count = min(options.unchangedSample, total)
        let first = (number % (total / count + 1)) * count % total
        var sample = (0..<count).map { (first + $0) % total }.sorted()[...]
        let tagger = Tagger(known.header.algorithm, key: key)
        let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
        var wrong: [UInt64] = []
        func check(before end: UInt64) throws {
            while let block = sample.first, let extent = shape.extent(ofBlock: block),
                extent.end <= end
            {
                sample = sample.dropFirst()
                // Resizing the volume changes its last block.
                guard extent == known.shape.extent(ofBlock: block) else { continue }
                try source.read(extent, into: memory)
                let found = memory.withBytes(count: Int(extent.length)) { tagger.entry(of: $0) }
                if try found != known.entry(ofBlock: block) { wrong.append(extent.offset) }
            }
        }
        try plan.forEach { change in
            try check(before: change.extent.offset)
            while let block = sample.first, block * MapShape.blockByteCount < change.extent.end {
                sample = sample.dropFirst()
            }
        }
        try check(before: source.volumeByteCount)
        guard wrong.isEmpty else {
            let places = wrong.prefix(8).map(String.init).joined(separator: ", ")
            throw SourceError.noProof(
                .listIncomplete,
                reason:
                    "the change list does not name \(wrong.count) of \(count) blocks that were compared and have "
                    + "changed since the last generation (at bytes \(places)): something on this host reports "
                    + "changes wrongly. Nothing was sent"
            )
        }
    }
}

/// Joins ascending blocks into extents of data.
struct BlockRuns {
    private let shape: MapShape
    private var run: Range<UInt64>?

    init(_ shape: MapShape) { self.shape = shape }

    /// Adds a block; passes the previous run to `body` if the block does not continue it.
    mutating func add(_ block: UInt64, _ body: (Change) throws -> Void) throws {
        if let run, run.upperBound == block {
            self.run = run.lowerBound..<block + 1
            return
        }
        try finish(body)
        run = block..<block + 1
    }

    /// Passes the last run to `body`.
    mutating func finish(_ body: (Change) throws -> Void) throws {
        guard let run else { return }
        self.run = nil
        let end = min(run.upperBound * MapShape.blockByteCount, shape.volumeByteCount)
        if let extent = Extent(from: run.lowerBound * MapShape.blockByteCount, upTo: end) {
            try body(Change(extent, .data))
        }
    }
}
