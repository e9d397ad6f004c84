// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import TagMap
internal import Wire

/// The tag map of what a standby holds of a volume, and what the unfinished generation changes in
/// it.
///
/// It is a cache, not a source of truth: a wrong map is removed and made again by reading the
/// source once.
///
/// 1. While a generation is sent, its updates are collected in a file that names the transfer; or,
///    if the whole source was read, its new map lies beside it. *A crash leaves both; a resumed
///    transfer continues with them.*
/// 2. After COMMITTED they become the map (`commit`), before the catalog says so. *A crash leaves the generation in
///    doubt; `commit` is done again.*
struct SourceMap {
    /// Path of the committed generation's map.
    private let path: String
    private var updatesPath: String { path + "@updates" }
    /// Path of the complete new map, if one exists.
    private var wholePath: String { path + "@whole" }
    /// Files for the map of a source that is read in full, and for the list of what it maps.
    let scratch: ScratchFiles
    private static let scan = "scan"

    /// - Parameter path: ends in a name. Suffixes begin with a character that no name contains, so
    ///   no standby's name can match another one's file.
    init(_ path: String) {
        self.path = path
        scratch = ScratchFiles(in: Directory.parent(of: path))
    }

    /// The map of a generation, or `nil` if this side does not have it.
    func committed(_ record: GenerationRecord?) -> TagMapFile? {
        guard let record, record.volumeRoot != .zero,
            let map = try? TagMapFile(opening: path),
            map.header.generation == record.id, map.root == record.volumeRoot,
            map.header.algorithm == record.head.tagAlgorithm
        else { return nil }
        return map
    }

    /// Makes the map for a source that is read in full.
    func makeScan(_ algorithm: TagAlgorithm, volumeByteCount: UInt64) throws -> TagMapFile {
        try TagMapFile(making: scratch.path(Self.scan), algorithm, volumeByteCount: volumeByteCount)
    }

    func removeScan() { scratch.remove(Self.scan) }

    /// Renames all files for another replica. What a crash leaves behind is made again.
    func move(to new: SourceMap) throws(SystemCallError) {
        let names = [
            (path, new.path), (updatesPath, new.updatesPath), (wholePath, new.wholePath),
        ]
        for (old, new) in names where Directory.exists(old) { try Directory.move(old, to: new) }
    }

    // MARK: The unfinished generation

    /// What a transfer collects for the map.
    enum Draft {
        /// The new entries, and the map that they change.
        case updates(MapUpdateWriter, base: TagMapFile?)
        /// The complete new map.
        case whole(TagMapFile)

        var writer: MapUpdateWriter? {
            if case .updates(let writer, _) = self { return writer }
            return nil
        }
    }

    /// Starts collecting for a transfer.
    ///
    /// - Parameter scan: the new map, if the whole source was read.
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

    /// Whether the files that a resumed transfer continues with exist.
    func hasDraft(_ begin: Begin, parent: GenerationRecord?) -> Bool {
        guard isOf(begin.transfer) else { return false }
        switch begin.head.kind {
        case .full: return true
        case .delta: return committed(parent) != nil || (try? TagMapFile(opening: wholePath)) != nil
        case .resync: return (try? TagMapFile(opening: wholePath)) != nil
        }
    }

    /// Continues collecting for a transfer that was begun.
    ///
    /// - Throws: `damaged` if the volume's future map can no longer be determined.
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

    /// Renames what version 0.1.0 collected for a transfer to the current names. Its `.whole` file
    /// may by now be the map of a standby of that name, which belongs to a generation.
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

    /// Root of the volume's map with the unfinished generation.
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

    /// Turns the draft into the map of the generation that the standby has committed.
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
            // Only time is lost: the next send reads the whole source.
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

    /// Drops what an unfinished generation has collected.
    func discard() throws {
        // Processes shared the last one before each had its own scratch files.
        for path in [updatesPath, wholePath, path + "@scan"]
        where Directory.exists(path) {
            try Directory.remove(path)
        }
    }

    /// Removes all files.
    func remove() {
        try? discard()
        try? Directory.remove(path)
    }
}
