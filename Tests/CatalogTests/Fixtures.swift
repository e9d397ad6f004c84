// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Catalog
import Digests
import Foundation
import Testing
import Wire

/// A directory that is gone with the object.
final class Scratch: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "catalog-test-" + Hex.encode(SecureRandom.bytes(8))
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// A directory inside, which need not exist.
    func directory(_ name: String = "state") -> String { path + "/" + name }
}

/// What an operation was refused for; nothing if it succeeded.
func refusal<Result>(_ body: () throws -> Result) -> CatalogError.Kind? {
    do {
        _ = try body()
        return nil
    } catch let error as CatalogError {
        return error.kind
    } catch {
        Issue.record("an error of another type: \(error)")
        return nil
    }
}

extension CatalogError.Kind? {
    var isConflict: Bool { if case .conflict = self { true } else { false } }
    var isNotFound: Bool { if case .notFound = self { true } else { false } }
    var isPermissions: Bool { if case .permissions = self { true } else { false } }
    var isStorage: Bool { if case .storage = self { true } else { false } }
}

func name(_ text: String) throws -> VolumeName { try #require(VolumeName(text)) }

func digest(_ text: String) -> SHA256Digest { SHA256Digest.of([UInt8](text.utf8)) }

func key(_ text: String) -> KeyID { KeyID(digest(text)) }

/// The announcement of a full generation.
func full(
    _ number: UInt64 = 1, lineage: LineageID = .random(), group: Group? = nil
) -> Begin {
    Begin(
        transfer: .random(),
        head: GenerationHead(
            kind: .full, tagAlgorithm: .poly1305, lineage: lineage, number: number, parent: .zero,
            volumeSize: 1 << 30, sourceTime: 1_700_000_000_000_000_000, sourceIdentity: "thin 7"),
        plannedContent: 1 << 20, plannedSegments: 3, heldSegments: 2, tagKey: .random(),
        group: group)
}

/// The announcement of the delta that follows `parent`.
func delta(onto parent: GenerationRecord, group: Group? = nil) -> Begin {
    var begin = full(parent.head.number + 1, lineage: parent.head.lineage, group: group)
    begin.head.kind = .delta
    begin.head.parent = parent.id
    begin.tagKey = nil
    return begin
}

/// The announcement of a resync: of the lineage of `parent`, or one that begins another.
func resync(onto parent: GenerationRecord?, inPlace: Bool = false, group: Group? = nil) -> Begin {
    var begin = full(group: group)
    begin.head.kind = .resync
    begin.comparedRoot = digest("map")
    begin.inPlace = inPlace
    guard let parent else { return begin }
    // It may leave numbers out.
    begin.head.number = parent.head.number + 3
    begin.head.lineage = parent.head.lineage
    begin.head.parent = parent.id
    begin.tagKey = nil
    return begin
}

/// The record of the generation that was announced.
func record(of begin: Begin) -> GenerationRecord {
    GenerationRecord(
        head: begin.head, segmentCount: 3, deltaDigest: digest("delta \(begin.head.number)"),
        volumeRoot: .zero, senderKey: key("sender"))
}

extension StandbyCatalog {
    /// Adds a volume; if it belongs to nobody, it can be in no group.
    func create(_ name: VolumeName, of peer: KeyID? = nil) throws {
        try createVolume(
            name, peer: peer, targetPath: "/dev/vg0/\(name)", targetKind: .blockDevice
        ) { _ in "id2 device dm=\(name)" }
    }

    func require(_ name: VolumeName) throws -> StandbyVolume {
        try #require(try volume(name))
    }

    /// Commits a full generation.
    @discardableResult
    func commitFull(_ name: VolumeName, _ fence: UInt64) throws -> GenerationRecord {
        let begin = full()
        let record = record(of: begin)
        try beginTransfer(
            name, fence: fence, StandbyTransfer(begin: begin, logID: .random(), inPlace: true))
        try beginApplying(name, fence: fence, record)
        try commit(name, fence: fence, committedAt: 77)
        return record
    }

    /// Begins a delta onto the committed generation.
    @discardableResult
    func beginDelta(
        _ name: VolumeName, _ fence: UInt64, group: Group? = nil
    ) throws -> StandbyTransfer {
        let begin = delta(onto: try #require(try require(name).committed), group: group)
        let transfer = StandbyTransfer(begin: begin, logID: .random(), inPlace: false)
        try beginTransfer(name, fence: fence, transfer)
        return transfer
    }

    /// Brings an empty volume into a state; an unfinished transfer belongs to the group. In state
    /// prepared there is always one.
    func bring(
        _ name: VolumeName, to state: VolumeState, _ fence: UInt64, group: Group? = nil
    ) throws {
        switch state {
        case .empty: break
        case .initialising:
            try beginTransfer(
                name, fence: fence,
                StandbyTransfer(begin: full(group: group), logID: .random(), inPlace: true))
        case .consistent: try commitFull(name, fence)
        case .staging:
            try commitFull(name, fence)
            try beginDelta(name, fence, group: group)
        case .prepared:
            try commitFull(name, fence)
            let group = group ?? Group(id: .random(), members: 2)
            let begin = try beginDelta(name, fence, group: group).begin
            let preparation = try prepare(name, fence: fence, record(of: begin))
            #expect(preparation == .waiting(prepared: 1))
        case .applying:
            try commitFull(name, fence)
            let transfer = try beginDelta(name, fence)
            try beginApplying(name, fence: fence, record(of: transfer.begin))
        case .promoted:
            try commitFull(name, fence)
            try promote(name, fence: fence)
        case .diverged:
            try commitFull(name, fence)
            try markDiverged(name, reason: "written by somebody else")
        case .suspect:
            try commitFull(name, fence)
            try markSuspect(name, reason: "pwrite: EIO")
        }
    }
}
