// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import Staging
internal import TagMap
internal import Wire

/// Whether a target may get the rest of a committed generation, where nobody knows whose content it holds by now: the state
/// was restored from a backup, another device may be there, or the operator says that the target is elsewhere.
extension VolumeWriter {
    /// Reads all of a target. What the backup had begun to write may have been finished long ago, and a later generation, or
    /// somebody's own content, may be there: between the ends of this generation and the one before, and behind both, too.
    ///
    /// - Parameters:
    ///   - isTorn: whether the blocks that this generation touches may hold anything: the operator says that it is the
    ///     target. Then some block that is not zeros must prove it, unless `mayReplace`.
    ///   - mayReplace: whether the operator says that what is there may be replaced.
    /// - Throws: `TargetError.replaced` if a block is neither what the generation before left nor what this one brings;
    ///   nothing has changed then. A block that was torn by a crash is neither, too.
    func checkAll(
        of path: String, _ begin: Begin, isTorn: Bool = false, mayReplace: Bool = false,
        _ progress: (Progress) throws -> Void
    ) throws {
        // An earlier attempt may have come as far as the map.
        var next = volume
        next.committed = volume.applying
        let before = map.compared(begin.comparedRoot) ?? map.committed(volume)
        guard let known = before ?? map.committed(next),
            var updates = try? MapUpdateReader(path: map.updatesPath),
            updates.header.transfer == begin.transfer
        else { return try checkWritten(path, begin, progress) }
        guard try !isTorn || mayReplace || hasUntouchedContent(known) else {
            throw TargetError.replaced(path, differing: 0, compared: 0)
        }
        let size = begin.head.volumeSize
        let isCut = try TargetObject(path: path).byteCount <= size
        var (foreign, compared) = (0, 0)
        _ = try map.compareAll(
            path, nil, Tagger(begin.head.tagAlgorithm, key: try tagKey()),
            volumeByteCount: known.shape.volumeByteCount, progress
        ) { there, _ in
            var update = try updates.next()
            try MapDifference(there) { try known.children($0) }.forEach { block, _ in
                if isCut, let extent = known.shape.extent(ofBlock: block), extent.end > size {
                    return
                }
                compared += 1
                while let next = update, next.block < block { update = try updates.next() }
                let isTouched = update?.block == block
                if isTouched, isTorn { return }
                guard isTouched, try there.entry(ofBlock: block) == update?.entry else {
                    return foreign += 1
                }
            }
        }
        foreign += try foreignBlocks(behind: known.shape.volumeByteCount, path, begin, isTorn)
        guard foreign == 0 else {
            throw TargetError.replaced(path, differing: foreign, compared: max(compared, foreign))
        }
    }

    /// Whether a block that is not zeros is left alone by the unfinished generation.
    private func hasUntouchedContent(_ known: TagMapFile) throws -> Bool {
        var updates = try MapUpdateReader(path: map.updatesPath)
        var update = try updates.next()
        var block: UInt64 = 0
        while let found = try known.content(from: block) {
            while let next = update, next.block < found.block { update = try updates.next() }
            if update?.block != found.block { return true }
            block = found.block + 1
        }
        return false
    }

    /// Blocks behind the end of the generation before that hold neither zeros nor what this generation brings: of a device
    /// up to the end of this one, of a file all that it has.
    private func foreignBlocks(
        behind start: UInt64, _ path: String, _ begin: Begin, _ isTorn: Bool
    ) throws -> Int {
        let object = try TargetObject(path: path)
        let size = begin.head.volumeSize
        let stop = object.kind == .file ? object.byteCount : size
        let shape = MapShape(volumeByteCount: size)
        let tagger = Tagger(begin.head.tagAlgorithm, key: try tagKey())
        let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
        var updates = try MapUpdateReader(path: map.updatesPath)
        var update = try updates.next()
        var foreign = 0
        let unit = MapShape.blockByteCount
        var position = start
        do {
            let reader = try AlignedReader(path: path)
            while position < stop, let data = try reader.nextData(from: position),
                data.lowerBound < stop
            {
                let block = max(position, data.lowerBound) / unit
                let first = block * unit
                let count = Int(min(unit, min(stop, reader.byteCount) - first))
                try reader.read(at: first, into: memory, at: 0, count: count)
                position = first + unit
                while let next = update, next.block < block { update = try updates.next() }
                let kept = Int(max(start, first) - first)
                let ours = Int(min(shape.extent(ofBlock: block)?.length ?? 0, UInt64(count)))
                let isRight = memory.withBytes(count: count) { bytes in
                    if bytes.extracting(kept..<count).isAllZero { return true }
                    guard let update, update.block == block,
                        bytes.extracting(ours..<count).isAllZero
                    else { return false }
                    return isTorn || tagger.entry(of: bytes.extracting(0..<ours)) == update.entry
                }
                if !isRight { foreign += 1 }
            }
        } catch let error as SystemCallError {
            throw TargetError.failed(error)
        }
        return foreign
    }

    /// Refuses a target that does not hold the generation already: of a first copy, and without a map, as a crash leaves it
    /// that comes while the map is changed.
    func checkWritten(
        _ path: String, _ begin: Begin, _ progress: (Progress) throws -> Void
    ) throws {
        let found = try map.compareAll(
            path, nil, Tagger(begin.head.tagAlgorithm, key: try tagKey()),
            volumeByteCount: begin.head.volumeSize, progress)
        guard let root = volume.applying?.volumeRoot, root != .zero, found.root == root else {
            throw TargetError.replaced(path, differing: 0, compared: 0)
        }
    }

    /// The same of a copy in place, whose content is complete: nothing else may be there.
    func checkWhole(
        _ path: String, _ record: GenerationRecord, _ progress: (Progress) throws -> Void
    ) throws {
        do { try map.rebuild(record, path, try tagKey(), progress) } catch MapError.damaged {
            let mayBeOther = try volume.isRestored || isUnnamed(path)
            if !mayBeOther {
                try diverge("the target was written before its first copy was complete")
            }
            throw TargetError.replaced(path, differing: 0, compared: 0)
        }
    }
}
