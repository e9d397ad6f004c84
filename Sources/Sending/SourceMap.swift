// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import TagMap
internal import Wire

/// The tag map of what a standby holds of a volume, and what the unfinished generation makes of it.
///
/// It is a memory, not a source of truth: a map that is not right is removed, and made anew by reading the source once.
///
/// 1. While a generation is sent, its updates are collected in a file that names the transfer; or, where the source was
///    read as a whole, its new map lies beside it. *A crash leaves both; a resumed transfer goes on with them.*
/// 2. After COMMITTED they become the map (`commit`), before the catalog says so. *A crash leaves the generation in
///    doubt; `commit` is done again.*
struct SourceMap {
    /// Of the committed generation.
    private let path: String
    private var updatesPath: String { path + "@updates" }
    /// The new map as a whole, where there is one.
    private var wholePath: String { path + "@whole" }
    /// For the map of a source that is read as a whole, and the list of what it maps.
    let scratch: ScratchFiles
    private static let scan = "scan"

    /// - Parameter path: ends in a name. What is put behind it begins with a sign that no name holds, so that no standby is
    ///   called like another one's file.
    init(_ path: String) {
        self.path = path
        scratch = ScratchFiles(in: Directory.parent(of: path))
    }

    /// The map of a generation, if this side has it.
    func committed(_ record: GenerationRecord?) -> TagMapFile? {
        guard let record, record.volumeRoot != .zero,
            let map = try? TagMapFile(opening: path),
            map.header.generation == record.id, map.root == record.volumeRoot,
            map.header.algorithm == record.head.tagAlgorithm
        else { return nil }
        return map
    }

    /// Where the map of a source that is read as a whole is made.
    func makeScan(_ algorithm: TagAlgorithm, volumeByteCount: UInt64) throws -> TagMapFile {
        try TagMapFile(making: scratch.path(Self.scan), algorithm, volumeByteCount: volumeByteCount)
    }

    func removeScan() { scratch.remove(Self.scan) }

    /// Gives everything the names of another replica. What a crash leaves behind is made anew.
    func move(to new: SourceMap) throws(SystemCallError) {
        let names = [
            (path, new.path), (updatesPath, new.updatesPath), (wholePath, new.wholePath),
        ]
        for (old, new) in names where Directory.exists(old) { try Directory.move(old, to: new) }
    }

    // MARK: The unfinished generation

    /// What a transfer collects.
    enum Draft {
        /// The new entries, and the map that they change.
        case updates(MapUpdateWriter, base: TagMapFile?)
        /// The new map is known already.
        case whole(TagMapFile)

        var writer: MapUpdateWriter? {
            if case .updates(let writer, _) = self { return writer }
            return nil
        }
    }

    /// Starts to collect for a transfer.
    ///
    /// - Parameter scan: the new map, if the source was read as a whole.
    func begin(_ begin: Begin, scan: TagMapFile?) throws {
        try discard()
        if let scan {
            try scan.seal(lineage: begin.head.lineage, generation: .zero)
            try Directory.move(scan.path, to: wholePath)
        }
        let writer = try MapUpdateWriter(
            making: updatesPath, base: Self.base(begin), transfer: begin.transfer)
        try writer.finish()
    }

    private static func base(_ begin: Begin) -> TagMapFormat.Base {
        begin.head.kind == .delta ? .parent : .zeros
    }

    /// Whether there is what a transfer that was begun goes on with.
    func hasDraft(_ begin: Begin, parent: GenerationRecord?) -> Bool {
        guard isOf(begin.transfer) else { return false }
        switch begin.head.kind {
        case .full: return true
        case .delta: return committed(parent) != nil || (try? TagMapFile(opening: wholePath)) != nil
        case .resync: return (try? TagMapFile(opening: wholePath)) != nil
        }
    }

    /// Goes on collecting for a transfer that was begun.
    ///
    /// - Throws: `damaged` if it cannot be told any more what the volume's map will be.
    func draft(_ begin: Begin, parent: GenerationRecord?) throws -> Draft {
        if isOf(begin.transfer), let whole = try? TagMapFile(opening: wholePath) {
            return .whole(whole)
        }
        let base = begin.head.kind == .delta ? committed(parent) : nil
        guard begin.head.kind == .full || base != nil,
            let writer = try MapUpdateWriter(
                resuming: updatesPath, base: Self.base(begin), transfer: begin.transfer,
                against: base)
        else { throw MapError.damaged(updatesPath, reason: "it is not of this generation") }
        return .updates(writer, base: base)
    }

    private func isOf(_ transfer: TransferID) -> Bool {
        takeFormer(transfer)
        return (try? MapUpdateReader(path: updatesPath))?.header.transfer == transfer
    }

    /// Gives what version 0.1.0 has collected for a transfer today's names. What it called `.whole` may by now be the map of a
    /// standby that is called so: that is of a generation.
    private func takeFormer(_ transfer: TransferID) {
        let (updates, whole) = (path + ".updates", path + ".whole")
        guard !Directory.exists(updatesPath), Directory.exists(updates),
            (try? MapUpdateReader(path: updates))?.header.transfer == transfer
        else { return }
        if (try? TagMapFile(opening: whole))?.header.generation == .zero {
            try? Directory.move(whole, to: wholePath)
        }
        try? Directory.move(updates, to: updatesPath)
    }

    /// The root that the volume has with the unfinished generation.
    func root(_ draft: Draft, _ begin: Begin) throws -> SHA256Digest {
        switch draft {
        case .whole(let map): return map.root
        case .updates(let writer, let base):
            try writer.finish()
            let size = begin.head.volumeSize
            let updates = try MapUpdateReader(path: updatesPath)
            if let base { return try base.root(with: updates, size: size) }
            return try TagMapFile.root(
                of: updates, begin.head.tagAlgorithm, size: size, scratch: scratch.path("root"))
        }
    }

    /// Makes the map that of the generation that the standby has committed.
    func commit(_ record: GenerationRecord, _ transfer: TransferID) {
        do {
            guard isOf(transfer) else { throw MapError.damaged(path, reason: "no updates") }
            if let whole = try? TagMapFile(opening: wholePath) {
                try whole.seal(lineage: record.head.lineage, generation: record.id)
                try Directory.move(wholePath, to: path)
            } else {
                try apply(record)
            }
            guard committed(record) != nil else {
                throw MapError.damaged(path, reason: "another root")
            }
        } catch {
            // Nothing is lost but time: the next send reads the source as a whole.
            try? Directory.remove(path)
        }
        try? discard()
    }

    private func apply(_ record: GenerationRecord) throws {
        let updates = try MapUpdateReader(path: updatesPath)
        let head = record.head
        let map: TagMapFile
        if updates.header.base == .zeros {
            map = try TagMapFile(
                making: path, head.tagAlgorithm, volumeByteCount: head.volumeSize)
        } else {
            map = try TagMapFile(opening: path, isWhole: false)
            guard [head.parent, record.id].contains(map.header.generation) else {
                throw MapError.damaged(path, reason: "it is of another generation")
            }
        }
        try map.apply(updates, size: head.volumeSize)
        try map.seal(lineage: head.lineage, generation: record.id)
    }

    /// Forgets what an unfinished generation has collected.
    func discard() throws {
        // The last one is what processes shared before each had a file of its own.
        for path in [updatesPath, wholePath, path + "@scan"]
        where Directory.exists(path) {
            try Directory.remove(path)
        }
    }

    /// Forgets everything.
    func remove() {
        try? discard()
        try? Directory.remove(path)
    }
}
