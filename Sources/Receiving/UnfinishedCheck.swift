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

/// Checks whether a target may get the rest of a committed generation if its content is unknown:
/// the state was restored from a backup, another device may be there, or the operator names another
/// target.
extension VolumeWriter {
    /// Reads the whole target. What was half written at the time of the backup may have been
    /// finished long ago, and a later generation or foreign content may be there, also between the
    /// ends of this generation and the previous one, and past both.
    ///
    /// - Parameters:
    ///   - isTorn: the blocks that this generation touches may hold anything, because the operator
    ///     says that this is the target. Then some block that is not zeros must prove it, unless
    ///     `mayReplace`.
    ///   - mayReplace: the operator allows replacing the content.
    /// - Throws: `TargetError.replaced` if a block matches neither the previous generation nor this
    ///   one, as does a block torn by a crash; nothing has changed then.
    func checkAll(
        of path: String, _ begin: Begin, isTorn: Bool = false, mayReplace: Bool = false,
        _ progress: (Progress) throws -> Void
    ) throws {
        // An earlier attempt may have got as far as the map.
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

    /// Whether the unfinished generation leaves a block untouched that is not zeros.
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

    /// Number of blocks past the end of the previous generation that hold neither zeros nor this
    /// generation's content: on a device up to the end of this generation, in a file up to its end.
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

    /// Refuses a target that does not already hold the generation. Used for a first copy, and
    /// without a map, as after a crash while the map is changed.
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

    /// Does the same for a copy in place, whose content is complete: the target may hold nothing
    /// else.
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
