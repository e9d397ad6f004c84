// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Catalog
internal import Connection
internal import Digests
internal import MapStore
internal import Platform
internal import Session
internal import Synchronization
internal import TagMap
package import Wire

/// Result of comparing a source with a standby's copy.
package struct Difference: Sendable {
    /// State of the standby before the comparison.
    package var standby: StandbyState
    /// Number of 64 KiB blocks that differ.
    package var blockCount: UInt64 = 0
    /// Bytes of the volume in the blocks that differ.
    package var byteCount: UInt64 = 0
    /// Bytes of those blocks in which the target holds anything but zeros.
    package var lostByteCount: UInt64 = 0
    /// Location of the differing blocks; at most `extentLimit` extents.
    package var extents: [Extent] = []
    /// Bytes of the volume that were compared, including zeros.
    package var comparedByteCount: UInt64 = 0
    /// Bytes of the committed generation past the end of the source.
    package var cutByteCount: UInt64 = 0
    /// The error that a resync would end with; `nil` if it would start.
    package var refusal: SendError?
    /// Bytes that each side read for the comparison.
    package var sourceReadByteCount: UInt64 = 0
    package var standbyReadByteCount: UInt64 = 0
    /// Bytes of frames in both directions.
    package var wireByteCount: UInt64 = 0

    /// Largest number of extents that a result lists.
    package static let extentLimit = 1000

    fileprivate mutating func add(_ extent: Extent, there entry: Tag) {
        blockCount += 1
        byteCount += extent.length
        if entry == .missing {
            // The target ends before this block does.
            lostByteCount += min(extent.end, max(extent.offset, standby.targetSize)) - extent.offset
        } else if !entry.isZero {
            lostByteCount += extent.length
        }
        if let last = extents.last, last.end == extent.offset,
            let joined = Extent(from: last.offset, upTo: extent.end)
        {
            extents[extents.count - 1] = joined
        } else if extents.count < Self.extentLimit {
            extents.append(extent)
        }
    }
}

/// How to compare a source with a standby's copy.
struct ComparisonPlan {
    var mode: Compare.Mode
    var algorithm: TagAlgorithm
    /// The tag key, and whether the standby already has it.
    var key: TagKey
    var isLineages: Bool
    var firstPage: UInt64 = 0
    var pageCount: UInt64 = 0
}

/// A running comparison whose two tag maps are ready.
struct ComparedMaps {
    /// Tag map of the source.
    var map: TagMapFile
    /// Root of the standby's tag map.
    var root: SHA256Digest
    var difference: Difference
}

extension Sender {
    /// Has the standby make its map, makes the source's map at the same time, and finds the blocks
    /// that differ.
    ///
    /// - Parameter body: receives each differing block, in ascending order.
    func compare(
        _ source: any Source, _ plan: ComparisonPlan, _ dialogue: Dialogue,
        _ standby: StandbyState, _ body: (UInt64) throws -> Void
    ) throws -> ComparedMaps {
        try dialogue.connection.send(
            dialogue.session.compare(
                Compare(
                    mode: plan.mode, algorithm: plan.algorithm,
                    volumeSize: source.volumeByteCount, firstPage: plan.firstPage,
                    pageCount: plan.pageCount, tagKey: plan.isLineages ? nil : plan.key)))
        let (map, read, compared) = try readBoth(source, plan, dialogue)
        var difference = Difference(standby: standby)
        difference.sourceReadByteCount = read
        difference.standbyReadByteCount = compared.read
        difference.cutByteCount =
            max(compared.committedSize, source.volumeByteCount) - source.volumeByteCount
        difference.refusal = shrinkRefusal(source, compared.committedSize)
        let unit = UInt64(MapShape.pageEntries) * MapShape.blockByteCount
        let pages = map.shape.pageCount
        let start = min(plan.firstPage, pages)
        let end = plan.pageCount == 0 ? pages : start + min(plan.pageCount, pages - start)
        difference.comparedByteCount =
            min(end * unit, source.volumeByteCount) - min(start * unit, source.volumeByteCount)
        if compared.root != map.root {
            try MapDifference(map) { range in
                try dialogue.connection.send(dialogue.session.ask(range))
                guard case .nodes(let content) = try dialogue.next() else {
                    throw SendError.brokenProtocol("no nodes")
                }
                return content
            }.forEach { block, other in
                guard let extent = map.shape.extent(ofBlock: block) else { return }
                difference.add(extent, there: other)
                try body(block)
            }
            guard difference.blockCount > 0 else {
                throw SendError.brokenProtocol("the maps differ, but none of their blocks")
            }
        }
        difference.wireByteCount = dialogue.connection.byteCount
        return ComparedMaps(map: map, root: compared.root, difference: difference)
    }

    /// State of the thread that reads the source.
    private final class Reading: Sendable {
        let result = Mutex<Result<Handoff<(map: TagMapFile, read: UInt64)>, any Error>?>(nil)
    }

    /// Reads the source on a separate thread, while the current one keeps the connection alive and
    /// waits for the standby.
    private func readBoth(
        _ source: any Source, _ plan: ComparisonPlan, _ dialogue: Dialogue
    ) throws -> (TagMapFile, UInt64, Compared) {
        let notifier = try Notifier()
        let reading = Reading()
        let isStopped = Atomic(false)
        let work = Handoff((self, source))
        let thread = Thread("read") {
            let (sender, source) = work.take()
            let result = Result {
                Handoff(
                    try sender.scan(
                        source, Tagger(plan.algorithm, key: plan.key), first: plan.firstPage,
                        count: plan.pageCount,
                        poll: {
                            if isStopped.load(ordering: .relaxed) { throw FirstFailureStop() }
                        }))
            }
            reading.result.withLock { $0 = result }
            notifier.notify()
        }
        defer {
            isStopped.store(true, ordering: .relaxed)
            thread.join()
        }
        var compared: Compared?
        var scanned: (map: TagMapFile, read: UInt64)?
        while true {
            while let action = try dialogue.poll() {
                if case .compared(let answer) = action { compared = answer }
            }
            if scanned == nil, let result = reading.result.withLock({ $0 }) {
                scanned = try result.get().take()
            }
            if let compared, let scanned { return (scanned.map, scanned.read, compared) }
            try dialogue.connection.wait(notifier)
        }
    }

    /// Ends the reading thread; the other one reports the cause.
    private struct FirstFailureStop: Error {}
}
