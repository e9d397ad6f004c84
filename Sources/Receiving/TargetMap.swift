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

/// The target was written by somebody else since the committed generation.
struct TargetDivergence: Error, CustomStringConvertible {
    /// First bytes of the blocks that differ; not more than are told.
    var offsets: [UInt64]
    /// How many differ.
    var count: UInt64
    /// What it is instead, if no block is known to differ.
    var cause: String?

    /// Offsets that are told.
    static let told = 8

    /// There is neither a map nor a root to compare the target with.
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

/// The tag map of a volume on the standby (Protocol/TagMap.md, 5): that of the committed generation, that of a comparison, and
/// what an unfinished generation changes.
struct TargetMap {
    /// Of the committed generation.
    let path: String
    /// Of the target as COMPARE found it; a resync changes it.
    let comparedPath: String
    /// The same, before a transfer has begun that it is for.
    let foundPath: String
    let updatesPath: String

    init(_ home: StandbyHome, _ volume: VolumeName) {
        path = "\(home.path)/maps/\(volume).map"
        comparedPath = "\(home.path)/maps/\(volume).compared"
        foundPath = "\(home.path)/maps/\(volume).found"
        updatesPath = "\(home.path)/maps/\(volume).updates"
    }

    /// The map of the committed generation, if it is there and right.
    func committed(_ volume: StandbyVolume) -> TagMapFile? {
        guard let record = volume.committed, let map = try? TagMapFile(opening: path),
            map.header.generation == record.id, map.header.algorithm == record.head.tagAlgorithm,
            map.header.volumeSize == record.head.volumeSize,
            record.volumeRoot == .zero || map.root == record.volumeRoot
        else { return nil }
        return map
    }

    /// Keeps the map that COMPARE has made for the transfer that begins now.
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

    /// Makes a map by reading a target. What lies past its end counts as zeros, but for the volume's last block, which is
    /// missing then.
    ///
    /// - Parameter progress: told what was read; what it throws ends the reading, and leaves no map.
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
            // Holes of a file are zeros without being read.
            let data: Range<UInt64>?
            do { data = try reader.nextData(from: position) } catch {
                throw TargetError.failed(error)
            }
            guard let data, data.lowerBound < end else { break }
            position = max(position, data.lowerBound / unit * unit)
            let stop = min(end, (data.upperBound - 1) / unit * unit + unit)
            while position < stop {
                // Blocks are whole but for the volume's last; what the target lacks of one is zeros.
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

    /// Makes the map the committed generation's, with the updates of a transfer taken in.
    ///
    /// - Throws: if the updates are not there, or what comes out does not have the record's root. Then the map is
    ///   to be made anew by reading the target.
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

    /// Makes the map of a generation that is on the target by reading that. A generation without a root is not proven by
    /// it, and gets none.
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

    /// The same for a committed generation: the target must be what was committed.
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

    /// Reads a target as a whole, into a map of its own.
    ///
    /// - Parameters:
    ///   - known: what it should hold; nil if there is no map.
    ///   - keep: is given the map and its path, which is removed afterwards.
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

    /// Forgets what an unfinished generation has collected.
    func discard() throws(SystemCallError) {
        for path in [updatesPath, comparedPath, foundPath] where Directory.exists(path) {
            try Directory.remove(path)
        }
    }

    /// Forgets the committed generation's.
    func removeCommitted() throws(SystemCallError) {
        if Directory.exists(path) { try Directory.remove(path) }
    }

    /// Gives everything the names of another volume.
    func move(to new: TargetMap) throws(SystemCallError) {
        let names = [
            (path, new.path), (comparedPath, new.comparedPath), (updatesPath, new.updatesPath),
        ]
        for (old, new) in names where Directory.exists(old) { try Directory.move(old, to: new) }
    }

    /// Forgets everything.
    func remove() throws(SystemCallError) {
        try discard()
        try removeCommitted()
    }
}

/// What reading a whole target has shown.
struct WholeComparison {
    /// Of what it holds.
    var root: SHA256Digest
    /// Bytes of the target that were read.
    var readByteCount: UInt64
    /// Blocks of 64 KiB that are not what the map says.
    var differingBlocks: UInt64 = 0
    /// Where they begin, in bytes; not more than 1000.
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

/// Collects the updates of a generation while its records pass by, and finds blocks of the target that are not what its
/// map says.
final class UpdateCollection {
    /// The map that the records change; nothing: a map of zeros.
    private let base: TagMapFile?
    private let writer: MapUpdateWriter
    private let collector: BlockCollector
    private let check: BlockCheck?

    /// - Parameters:
    ///   - base: what the target holds now, if its content is to be compared with that; a full copy in place has none.
    ///   - isChecked: whether the target is compared with the base before a block is taken to be replaced.
    ///   - poll: called while a run of zeros takes long; what it throws ends it.
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
                        // Of a full copy every byte comes in.
                        memory.zero(at: 0, count: Int(extent.length))
                    }
                },
                willReplace: { block, _, entry in try check?.willReplace(block, entry) },
                zero: { blocks in
                    // Zeros that stay zeros are neither compared nor noted.
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

    /// Ends the updates and makes them durable; refuses a target that was written by somebody else.
    ///
    /// - Returns: the root that the target will have.
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

/// Compares blocks of a target with the map of what it should hold.
final class BlockCheck {
    private let map: TagMapFile
    private let tagger: Tagger
    private let reader: AlignedReader
    private let isChecked: Bool
    private let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
    /// What was read of the target at once, and where it lies there.
    private let ahead = AlignedBuffer(byteCount: Limits.recordContent)
    private var held: Range<UInt64> = 0..<0
    /// The end of what the record at hand replaces.
    private var expected: UInt64 = 0
    private(set) var divergence: TargetDivergence?

    init(_ map: TagMapFile, _ tagger: Tagger, _ target: String, isChecked: Bool) throws {
        self.map = map
        self.tagger = tagger
        self.isChecked = isChecked
        do { reader = try AlignedReader(path: target) } catch { throw TargetError.failed(error) }
    }

    /// All whole blocks of an extent are about to be replaced, so that they may be read at once.
    func expect(_ extent: Extent) { expected = extent.end }

    /// Reads a block as it is, zeros past the target's end, after comparing it with the map.
    func load(_ block: UInt64, _ extent: Extent, _ memory: AlignedBuffer) throws {
        let known = map.shape.extent(ofBlock: block)
        let length = max(extent.length, known?.length ?? 0)
        try read(at: extent.offset, count: Int(length), into: memory)
        guard isChecked, let known else { return }
        let found = memory.withBytes(count: Int(known.length)) { tagger.entry(of: $0) }
        let entry = try map.entry(ofBlock: block)
        if found != entry, entry != .missing { note(extent.offset) }
        // What a grown volume adds to the block is defined by its records.
        if extent.length > known.length {
            memory.zero(at: Int(known.length), count: Int(extent.length - known.length))
        }
    }

    /// Compares a block that is to get a new entry. Zeros that stay zeros are not worth a read.
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

    /// The entry of the last block of a volume that shrinks to `size`, if it loses a part of it.
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
