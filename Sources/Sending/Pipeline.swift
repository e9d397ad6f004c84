// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Compression
internal import Digests
internal import MapStore
internal import Platform
internal import Synchronization
internal import TagMap
internal import Wire

/// When content is compressed.
package enum CompressionPolicy: String, Sendable, CaseIterable {
    /// While the network is the bottleneck.
    case auto
    case always
    case never
}

/// Reads, tags and compresses the segments of a plan, ahead of the network.
///
/// It consists of two threads with bounded queues between them and a fixed number of buffers:
/// memory depends neither on the volume nor on the change.
final class Pipeline: Sendable {
    /// The next thing to send.
    enum Item: Sendable {
        case record(RecordHeader, Lease?, offset: Int)
        case seal(Seal)
        /// The generation is complete.
        case end(GenerationRecord)
    }

    /// Memory on loan from a pool; it returns when its last user releases it.
    final class Lease: Sendable {
        let memory: AlignedBuffer
        private let pool: BoundedQueue<AlignedBuffer>

        init?(from pool: BoundedQueue<AlignedBuffer>) {
            guard let memory = pool.pop() else { return nil }
            self.memory = memory
            self.pool = pool
        }

        deinit { pool.push(memory) }
    }

    private enum Piece: Sendable {
        case data(Extent, Lease, Edges)
        case unmapped(Extent, Edges)
        case endOfSegment
        /// The last block of a volume that shrank.
        case edges(Edges)
    }

    /// The entries of the blocks that a piece covers only in part.
    private struct Edges: Sendable {
        var updates: [TagMapFormat.Update] = []
        /// The standby already has the piece; only its entries are needed.
        var isSent = false
    }

    private static let readBuffers = 10
    private static let compressedBuffers = 6

    /// Items to send; closed at the end or after a failure.
    let outgoing = BoundedQueue<Item>(capacity: 16)
    /// Why the pipeline ended early.
    let failure = FirstFailure()
    /// Whether the network is the bottleneck; set by the network's thread.
    let networkIsSlow = Atomic(false)
    /// Becomes readable when `outgoing` gets an item or is closed.
    let notifier: Notifier

    private let pieces = BoundedQueue<Piece>(capacity: 8)
    private let readPool = BoundedQueue<AlignedBuffer>(capacity: readBuffers)
    private let compressedPool = BoundedQueue<AlignedBuffer>(capacity: compressedBuffers)
    private let threads = Mutex<[Thread]>([])

    init() throws {
        notifier = try Notifier()
        for _ in 0..<Self.readBuffers {
            readPool.push(AlignedBuffer(byteCount: Limits.recordContent))
        }
        for _ in 0..<Self.compressedBuffers {
            compressedPool.push(AlignedBuffer(byteCount: Limits.recordContent))
        }
    }

    /// Starts with the first segment that is not sealed yet.
    func start(
        _ source: any Source, _ plan: SendPlan, begin: Begin, key: TagKey, sealed: [Seal],
        sender: KeyID, policy: CompressionPolicy, updates: MapUpdateWriter?
    ) {
        let source = Handoff(source)
        let known = updates.map { $0.lastBlock.map { $0 + 1 } ?? 0 }
        let collecting = Handoff(updates)
        let reader = Thread("read") { [self] in
            do {
                let edges = known.map {
                    EdgeReader(
                        MapShape(volumeByteCount: begin.head.volumeSize),
                        Tagger(begin.head.tagAlgorithm, key: key), first: $0)
                }
                try read(
                    source.take(), plan, from: UInt64(sealed.count), edges,
                    hasShrunk: begin.allowsShrink)
            } catch {
                failure.record(error)
                outgoing.close(discarding: true)
                notifier.notify()
            }
            pieces.close()
        }
        let encoder = Thread("encode") { [self] in
            do {
                try encode(begin, key, sealed, sender, policy, collecting.take())
            } catch {
                failure.record(error)
            }
            pieces.close(discarding: true)
            readPool.close()
            outgoing.close(discarding: failure.error != nil)
            notifier.notify()
        }
        threads.withLock { $0 = [reader, encoder] }
    }

    /// Stops both threads, whatever they are doing.
    func stop() {
        outgoing.close(discarding: true)
        pieces.close(discarding: true)
        readPool.close()
        compressedPool.close()
        threads.withLock { threads in
            for thread in threads { thread.join() }
            threads = []
        }
    }

    // MARK: Reading

    private func read(
        _ source: any Source, _ plan: SendPlan, from first: UInt64, _ edgeReader: EdgeReader?,
        hasShrunk: Bool
    ) throws {
        var cutter = SegmentCutter(plan.growth)
        var current = first
        try plan.forEach { change in
            try cutter.cut(change) { piece in
                let extent = piece.change.extent
                let isSent = piece.segment < first
                if isSent, edgeReader?.isKnown(extent) ?? true { return }
                if !isSent, piece.segment > current {
                    try push(.endOfSegment)
                    current = piece.segment
                }
                let edges = Edges(
                    updates: try edgeReader?.updates(of: extent, source) ?? [], isSent: isSent)
                switch piece.change.kind {
                case .unmapped:
                    try push(.unmapped(extent, edges))
                case .data:
                    guard let lease = Lease(from: readPool) else { throw Stopped() }
                    try source.read(extent, into: lease.memory)
                    try push(.data(extent, lease, edges))
                }
            }
        }
        if first < plan.segmentCount { try push(.endOfSegment) }
        if hasShrunk, let last = try edgeReader?.lastBlock(source) {
            try push(.edges(Edges(updates: [last])))
        }
    }

    private func push(_ piece: Piece) throws {
        guard pieces.push(piece) else { throw Stopped() }
    }

    /// Ends a thread after the other one failed; the other reports the cause.
    private struct Stopped: Error {}

    // MARK: Encoding

    private func encode(
        _ begin: Begin, _ key: TagKey, _ sealed: [Seal], _ sender: KeyID,
        _ policy: CompressionPolicy, _ updates: MapUpdateWriter?
    ) throws {
        let tagger = Tagger(begin.head.tagAlgorithm, key: key)
        let compressor = ZstdCompressor()
        var checker = TransferChecker(begin)
        for seal in sealed { try checker.skip(seal) }
        while let piece = pieces.pop() {
            switch piece {
            case .endOfSegment:
                try send(.seal(checker.seal()))
            case .unmapped(let extent, let edges):
                try noteZeros(extent, edges, updates)
                if edges.isSent { continue }
                let record = RecordHeader(.unmap, offset: extent.offset, length: extent.length)
                try checker.add(record)
                try send(.record(record, nil, offset: 0))
            case .data(let extent, let lease, let edges):
                for run in Self.runs(of: extent, in: lease.memory) {
                    let tags = run.isZero ? [] : Self.tags(of: run, extent, lease, tagger)
                    let first = MapShape.blocks(of: run.extent).lowerBound
                    try note(run.extent, edges, updates) { block in
                        run.isZero ? .zero : tags[Int(block - first)]
                    }
                    if edges.isSent { continue }
                    let item = try encode(run, extent, lease, tags, compressor, policy)
                    guard case .record(let record, _, _) = item else { continue }
                    try checker.add(record)
                    try send(item)
                }
            case .edges(let edges):
                for update in edges.updates { try updates?.add(update) }
            }
        }
        guard !checker.hasOpenSegment, checker.segmentIndex == begin.plannedSegments else {
            throw Stopped()
        }
        try send(.end(checker.record(sender: sender)))
    }

    /// Collects the entries of the blocks that an extent touches.
    private func note(
        _ extent: Extent, _ edges: Edges, _ updates: MapUpdateWriter?, _ tag: (UInt64) -> Tag
    ) throws {
        guard let updates else { return }
        for block in MapShape.blocks(of: extent) {
            let edge = edges.updates.first { $0.block == block }
            try updates.add(edge ?? TagMapFormat.Update(block: block, entry: tag(block)))
        }
    }

    /// Does the same for an extent of zeros of any length.
    private func noteZeros(
        _ extent: Extent, _ edges: Edges, _ updates: MapUpdateWriter?
    ) throws {
        guard let updates else { return }
        let blocks = MapShape.blocks(of: extent)
        var next = blocks.lowerBound
        for edge in edges.updates {
            try updates.addZeros(next..<max(next, edge.block))
            try updates.add(edge)
            next = edge.block + 1
        }
        try updates.addZeros(next..<max(next, blocks.upperBound))
    }

    private static func tags(
        of run: Run, _ piece: Extent, _ lease: Lease, _ tagger: Tagger
    ) -> [Tag] {
        let place = Int(run.extent.offset - piece.offset)
        return lease.memory.withBytes(at: place, count: Int(run.extent.length)) {
            tagger.tags(ofContent: $0, at: run.extent.offset)
        }
    }

    private func send(_ item: Item) throws {
        guard outgoing.push(item) else { throw Stopped() }
        notifier.notify()
    }

    /// A part of a piece that is all zero, or that contains no whole block of zeros.
    private struct Run {
        var extent: Extent
        var isZero: Bool
    }

    /// Splits a piece at the borders of its 64 KiB blocks that are all zero.
    private static func runs(of extent: Extent, in memory: AlignedBuffer) -> [Run] {
        let unit = UInt64(Limits.blockByteCount)
        var runs: [Run] = []
        var start = extent.offset
        while start < extent.end {
            let end = min((start / unit + 1) * unit, extent.end)
            let isZero = memory.withBytes(
                at: Int(start - extent.offset), count: Int(end - start)
            ) { $0.isAllZero }
            if let last = runs.last, last.isZero == isZero,
                let merged = Extent(from: last.extent.offset, upTo: end)
            {
                runs[runs.count - 1].extent = merged
            } else if let part = Extent(from: start, upTo: end) {
                runs.append(Run(extent: part, isZero: isZero))
            }
            start = end
        }
        return runs
    }

    private func encode(
        _ run: Run, _ piece: Extent, _ lease: Lease, _ tags: [Tag],
        _ compressor: ZstdCompressor, _ policy: CompressionPolicy
    ) throws -> Item {
        let extent = run.extent
        if run.isZero {
            return .record(
                RecordHeader(.zero, offset: extent.offset, length: extent.length), nil, offset: 0)
        }
        let place = Int(extent.offset - piece.offset)
        let count = Int(extent.length)
        if let packed = try compress(lease.memory, place, count, compressor, policy) {
            let record = RecordHeader(
                data: extent.offset, length: count, encoding: .zstd, storedLength: packed.count,
                tags: tags)
            return .record(record, packed.lease, offset: 0)
        }
        let record = RecordHeader(
            data: extent.offset, length: count, encoding: .raw, storedLength: count, tags: tags)
        return .record(record, lease, offset: place)
    }

    private func compress(
        _ memory: AlignedBuffer, _ place: Int, _ count: Int, _ compressor: ZstdCompressor,
        _ policy: CompressionPolicy
    ) throws -> (lease: Lease, count: Int)? {
        switch policy {
        case .never: return nil
        case .always: break
        case .auto: guard networkIsSlow.load(ordering: .relaxed) else { return nil }
        }
        guard count >= 4096,
            memory.withBytes(at: place, count: count, { compressor.looksCompressible($0) })
        else { return nil }
        guard let lease = Lease(from: compressedPool) else { throw Stopped() }
        let packed = memory.withBytes(at: place, count: count) { content in
            lease.memory.withMutableBytes(count: count) { output in
                compressor.compress(content, into: &output)
            }
        }
        return packed.map { (lease, $0) }
    }
}
