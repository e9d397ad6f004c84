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

/// Another program wrote to the target after the committed generation.
struct TargetDivergence: Error, CustomStringConvertible {
    /// Offsets of the first blocks that differ; at most `told`.
    var offsets: [UInt64]
    /// Number of blocks that differ.
    var count: UInt64
    /// Another cause, if no block is known to differ.
    var cause: String?

    /// Largest number of offsets in a message.
    static let told = 8

    /// The target has neither a map nor a root to compare with.
    static var unproven: TargetDivergence {
        TargetDivergence(
            offsets: [], count: 0,
            cause: "nothing proves what the target holds: its tag map is gone")
    }

    var description: String {
        guard !offsets.isEmpty else {
            return cause ?? "the target is not what the committed generation left there"
        }
        let places = offsets.map(String.init).joined(separator: ", ")
        return
            "\(count) blocks of 64 KiB were written by somebody else since the committed generation, "
            + "at bytes \(places)" + (count > UInt64(offsets.count) ? ", …" : "")
    }
}

/// The tag maps of a volume on the standby (Protocol/TagMap.md, 5): that of the committed
/// generation, that of a comparison, and the changes of an unfinished generation.
struct TargetMap {
    /// Path of the committed generation's map.
    let path: String
    /// Path of the map that COMPARE made of the target; a resync changes it.
    let comparedPath: String
    /// Path of the same map before its transfer begins.
    let foundPath: String
    let updatesPath: String

    init(_ home: StandbyHome, _ volume: VolumeName) {
        path = "\(home.path)/maps/\(volume).map"
        comparedPath = "\(home.path)/maps/\(volume).compared"
        foundPath = "\(home.path)/maps/\(volume).found"
        updatesPath = "\(home.path)/maps/\(volume).updates"
    }

    /// The map of the committed generation; `nil` if it is missing or wrong.
    func committed(_ volume: StandbyVolume) -> TagMapFile? {
        guard let record = volume.committed, let map = try? TagMapFile(opening: path),
            map.header.generation == record.id, map.header.algorithm == record.head.tagAlgorithm,
            map.header.volumeSize == record.head.volumeSize,
            record.volumeRoot == .zero || map.root == record.volumeRoot
        else { return nil }
        return map
    }

    /// Moves the map that COMPARE made to the transfer that begins now.
    func keepFound() throws(SystemCallError) {
        if Directory.exists(foundPath) { try Directory.move(foundPath, to: comparedPath) }
    }

    /// The map that a resync was compared with.
    func compared(_ root: SHA256Digest?) -> TagMapFile? {
        guard let root, let map = try? TagMapFile(opening: comparedPath), map.root == root else {
            return nil
        }
        return map
    }

    /// Makes a map by reading a target. What lies past the target's end counts as zeros, except the
    /// volume's last block, which is then marked missing.
    ///
    /// - Parameter progress: receives the bytes read; throwing ends the read and leaves no map.
    /// - Returns: also the bytes read.
    static func scan(
        _ target: String, into path: String, _ tagger: Tagger, volumeByteCount: UInt64,
        first: UInt64 = 0, count: UInt64 = 0, _ progress: (Progress) throws -> Void
    ) throws -> (map: TagMapFile, read: UInt64) {
        let reader: AlignedReader
        do { reader = try AlignedReader(path: target) } catch { throw TargetError.failed(error) }
        let map = try TagMapFile(
            making: path, tagger.algorithm, volumeByteCount: volumeByteCount)
        var isWhole = false
        defer { if !isWhole { try? Directory.remove(path) } }
        var builder = MapBuilder(map, tagger, first: first, count: count)
        let memory = AlignedBuffer(byteCount: Limits.recordContent)
        let unit = MapShape.blockByteCount
        let wanted = builder.bytes
        let end = min(wanted.upperBound, reader.byteCount)
        var position = wanted.lowerBound
        while position < end {
            // Holes of a file are zeros and need no read.
            let data: Range<UInt64>?
            do { data = try reader.nextData(from: position) } catch {
                throw TargetError.failed(error)
            }
            guard let data, data.lowerBound < end else { break }
            position = max(position, data.lowerBound / unit * unit)
            let stop = min(end, (data.upperBound - 1) / unit * unit + unit)
            while position < stop {
                // Only the volume's last block may be short; what the target lacks of a block is
                // zeros.
                let block = min(UInt64(memory.byteCount), stop - position)
                let wholeEnd = min((position + block - 1) / unit * unit + unit, wanted.upperBound)
                let wholeCount = Int(wholeEnd - position)
                do {
                    try reader.read(at: position, into: memory, at: 0, count: Int(block))
                } catch {
                    throw TargetError.failed(error)
                }
                if wholeCount > Int(block) {
                    memory.zero(at: Int(block), count: wholeCount - Int(block))
                }
                try builder.add(at: position, memory, count: wholeCount)
                position += UInt64(wholeCount)
                try progress(Progress(phase: .reading, done: position, total: max(end, position)))
            }
        }
        if reader.byteCount < volumeByteCount { try builder.missLastBlock() }
        try builder.finish()
        isWhole = true
        return (map, builder.byteCount)
    }

    /// Turns the map into the committed generation's by applying a transfer's updates.
    ///
    /// - Throws: if the updates are missing, or the result does not have the record's root. Then
    ///   make the map again by reading the target.
    func apply(_ record: GenerationRecord, _ begin: Begin) throws {
        let updates = try MapUpdateReader(path: updatesPath)
        guard updates.header.transfer == begin.transfer else {
            throw MapError.damaged(updatesPath, reason: "it belongs to another transfer")
        }
        if compared(begin.comparedRoot) != nil {
            try Directory.move(comparedPath, to: path)
        }
        let head = record.head
        let map: TagMapFile
        if updates.header.base == .zeros {
            map = try TagMapFile(
                making: path, head.tagAlgorithm, volumeByteCount: head.volumeSize)
        } else {
            map = try TagMapFile(opening: path, isWhole: false)
        }
        try map.apply(updates, size: head.volumeSize)
        try seal(map, record)
    }

    /// Makes the map of a generation on the target by reading that. A generation without a root is
    /// not proven by this and gets no map.
    func rebuild(
        _ record: GenerationRecord, _ target: String, _ key: TagKey,
        _ progress: (Progress) throws -> Void
    ) throws {
        guard record.volumeRoot != .zero else {
            throw MapError.damaged(path, reason: "the generation has no root that would prove it")
        }
        let (map, _) = try Self.scan(
            target, into: path, Tagger(record.head.tagAlgorithm, key: key),
            volumeByteCount: record.head.volumeSize, progress)
        try seal(map, record)
    }

    /// Does the same for a committed generation: the target must match what was committed.
    ///
    /// - Throws: `TargetDivergence`.
    func rebuildProven(
        _ record: GenerationRecord, _ target: String, _ key: TagKey,
        _ progress: (Progress) throws -> Void
    ) throws {
        guard record.volumeRoot != .zero else { throw TargetDivergence.unproven }
        do { try rebuild(record, target, key, progress) } catch let error as MapError {
            guard case .damaged = error else { throw error }
            try removeCommitted()
            throw TargetDivergence(offsets: [], count: 0)
        }
    }

    /// Reads the whole target into a separate map.
    ///
    /// - Parameters:
    ///   - known: the expected content; `nil` if there is no map.
    ///   - keep: receives the map and its path, which is removed afterwards.
    func compareAll(
        _ target: String, _ known: TagMapFile?, _ tagger: Tagger, volumeByteCount: UInt64,
        _ progress: (Progress) throws -> Void,
        keep: (TagMapFile, String) throws -> Void = { _, _ in }
    ) throws -> WholeComparison {
        let path = path + ".scrub"
        defer { try? Directory.remove(path) }
        let (found, read) = try Self.scan(
            target, into: path, tagger, volumeByteCount: volumeByteCount, progress)
        var result = WholeComparison(root: found.root, readByteCount: read)
        if let known, known.root != found.root {
            try MapDifference(found) { try known.children($0) }.forEach { block, _ in
                result.note(block * MapShape.blockByteCount)
            }
        }
        try keep(found, path)
        return result
    }

    private func seal(_ map: TagMapFile, _ record: GenerationRecord) throws {
        guard record.volumeRoot == .zero || map.root == record.volumeRoot else {
            throw MapError.damaged(map.path, reason: "it has another root than the generation")
        }
        try map.seal(lineage: record.head.lineage, generation: record.id)
    }

    /// Removes the draft of an unfinished generation.
    func discard() throws(SystemCallError) {
        for path in [updatesPath, comparedPath, foundPath] where Directory.exists(path) {
            try Directory.remove(path)
        }
    }

    /// Removes the committed generation's map.
    func removeCommitted() throws(SystemCallError) {
        if Directory.exists(path) { try Directory.remove(path) }
    }

    /// Renames all files for another volume.
    func move(to new: TargetMap) throws(SystemCallError) {
        let names = [
            (path, new.path), (comparedPath, new.comparedPath), (updatesPath, new.updatesPath),
        ]
        for (old, new) in names where Directory.exists(old) { try Directory.move(old, to: new) }
    }

    /// Removes all files.
    func remove() throws(SystemCallError) {
        try discard()
        try removeCommitted()
    }
}

/// Result of reading a whole target.
struct WholeComparison {
    /// Root of the target's content.
    var root: SHA256Digest
    /// Bytes of the target that were read.
    var readByteCount: UInt64
    /// Number of 64 KiB blocks that differ from the map.
    var differingBlocks: UInt64 = 0
    /// Offsets of those blocks in bytes; at most 1000.
    var offsets: [UInt64] = []

    var divergence: TargetDivergence? {
        guard differingBlocks > 0 else { return nil }
        return TargetDivergence(
            offsets: Array(offsets.prefix(TargetDivergence.told)), count: differingBlocks)
    }

    mutating func note(_ offset: UInt64) {
        differingBlocks += 1
        if offsets.count < 1000 { offsets.append(offset) }
    }
}

/// Collects the updates of a generation as its records pass through, and finds blocks of the target
/// that differ from its map.
final class UpdateCollection {
    /// The map that the records change; `nil` stands for a map of zeros.
    private let base: TagMapFile?
    private let writer: MapUpdateWriter
    private let collector: BlockCollector
    private let check: BlockCheck?

    /// - Parameters:
    ///   - base: the target's current content, if it is compared; a full copy in place has none.
    ///   - isChecked: compare the target with the base before a block counts as replaced.
    ///   - poll: called during a long run of zeros; throwing ends it.
    init(
        _ map: TargetMap, _ begin: Begin, _ key: TagKey, base: TagMapFile?, target: String,
        isChecked: Bool, poll: @escaping () throws -> Void
    ) throws {
        let tagger = Tagger(begin.head.tagAlgorithm, key: key)
        let writer = try MapUpdateWriter(
            making: map.updatesPath, base: base == nil ? .zeros : .parent,
            transfer: begin.transfer, against: base)
        let check = try base.map { try BlockCheck($0, tagger, target, isChecked: isChecked) }
        self.base = base
        self.writer = writer
        self.check = check
        collector = BlockCollector(
            MapShape(volumeByteCount: begin.head.volumeSize), tagger,
            BlockCollector.Owner(
                load: { block, extent, memory in
                    if let check {
                        try check.load(block, extent, memory)
                    } else {
                        // A full copy defines every byte.
                        memory.zero(at: 0, count: Int(extent.length))
                    }
                },
                willReplace: { block, _, entry in try check?.willReplace(block, entry) },
                zero: { blocks in
                    // Zeros that stay zeros are neither compared nor recorded.
                    try base?.forEachContent(in: blocks) { block, _ in
                        try poll()
                        try check?.willReplace(block, .zero)
                    }
                    try writer.addZeros(blocks)
                },
                emit: { try writer.add($0) }))
    }

    func add(_ record: RecordHeader, _ content: ContentProof.Content?) throws {
        guard let extent = Extent(offset: record.offset, length: record.length) else { return }
        if content != nil { check?.expect(extent) }
        try collector.add(
            extent, content.map { ($0.memory, $0.offset) }, tags: record.tags)
    }

    /// Ends the updates and makes them durable; refuses a target that another program wrote to.
    ///
    /// - Returns: the future root of the target.
    func finish(_ map: TargetMap, _ begin: Begin) throws -> SHA256Digest {
        let size = begin.head.volumeSize
        try collector.finish()
        if let base, size < base.shape.volumeByteCount, let last = try check?.cutBlock(size) {
            try writer.add(last)
        }
        try writer.finish()
        if let divergence = check?.divergence { throw divergence }
        let updates = try MapUpdateReader(path: map.updatesPath)
        if let base { return try base.root(with: updates, size: size) }
        return try TagMapFile.root(
            of: updates, begin.head.tagAlgorithm, size: size,
            scratch: map.updatesPath + ".zeros")
    }
}

/// Compares blocks of a target with its map.
final class BlockCheck {
    private let map: TagMapFile
    private let tagger: Tagger
    private let reader: AlignedReader
    private let isChecked: Bool
    private let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
    /// Buffer for reading several blocks at once, and their range on the target.
    private let ahead = AlignedBuffer(byteCount: Limits.recordContent)
    private var held: Range<UInt64> = 0..<0
    /// End of the extent that the current record replaces.
    private var expected: UInt64 = 0
    private(set) var divergence: TargetDivergence?

    init(_ map: TagMapFile, _ tagger: Tagger, _ target: String, isChecked: Bool) throws {
        self.map = map
        self.tagger = tagger
        self.isChecked = isChecked
        do { reader = try AlignedReader(path: target) } catch { throw TargetError.failed(error) }
    }

    /// Announces that all whole blocks of an extent will be replaced, so that they may be read at
    /// once.
    func expect(_ extent: Extent) { expected = extent.end }

    /// Reads a block with zeros past the target's end, after comparing it with the map.
    func load(_ block: UInt64, _ extent: Extent, _ memory: AlignedBuffer) throws {
        let known = map.shape.extent(ofBlock: block)
        let length = max(extent.length, known?.length ?? 0)
        try read(at: extent.offset, count: Int(length), into: memory)
        guard isChecked, let known else { return }
        let found = memory.withBytes(count: Int(known.length)) { tagger.entry(of: $0) }
        let entry = try map.entry(ofBlock: block)
        if found != entry, entry != .missing { note(extent.offset) }
        // The records of a grown volume define what it adds to the block.
        if extent.length > known.length {
            memory.zero(at: Int(known.length), count: Int(extent.length - known.length))
        }
    }

    /// Compares a block before it gets a new entry. Zeros that stay zeros are not read.
    func willReplace(_ block: UInt64, _ entry: Tag) throws {
        guard isChecked, let known = map.shape.extent(ofBlock: block) else { return }
        let old = try map.entry(ofBlock: block)
        if entry.isZero && old.isZero || old == .missing { return }
        if known.offset < held.lowerBound || known.end > held.upperBound {
            let end = min(max(expected, known.end), map.shape.volumeByteCount)
            let count = min(Int(clamping: end - known.offset), ahead.byteCount)
            try read(at: known.offset, count: count, into: ahead)
            held = known.offset..<known.offset + UInt64(count)
        }
        let place = Int(known.offset - held.lowerBound)
        let found = ahead.withBytes(at: place, count: Int(known.length)) { tagger.entry(of: $0) }
        if found != old { note(known.offset) }
    }

    private func read(at offset: UInt64, count: Int, into memory: AlignedBuffer) throws {
        let there = Int(min(UInt64(count), max(offset, reader.byteCount) - offset))
        do { try reader.read(at: offset, into: memory, at: 0, count: there) } catch {
            throw TargetError.failed(error)
        }
        memory.zero(at: there, count: count - there)
    }

    /// The entry of the last block of a volume that shrinks to `size`; `nil` if no block is cut.
    func cutBlock(_ size: UInt64) throws -> TagMapFormat.Update? {
        let shape = MapShape(volumeByteCount: size)
        let block = shape.blockCount - 1
        guard let extent = shape.extent(ofBlock: block), extent.length < MapShape.blockByteCount
        else { return nil }
        try load(block, extent, memory)
        let entry = memory.withBytes(count: Int(extent.length)) { tagger.entry(of: $0) }
        return TagMapFormat.Update(block: block, entry: entry)
    }

    private func note(_ offset: UInt64) {
        var found = divergence ?? TargetDivergence(offsets: [], count: 0)
        found.count += 1
        if found.offsets.count < TargetDivergence.told { found.offsets.append(offset) }
        divergence = found
    }
}
