// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
package import Digests
internal import Platform
internal import Session
internal import Staging
internal import TLS
package import Wire

/// Why a file was not imported.
package enum ImportError: RuledError, CustomStringConvertible {
    /// It is no export file, or not a whole one.
    case damaged(String, String)
    /// No source host may send this volume yet.
    case noPeer(VolumeName)
    /// It is signed by another key than the volume's.
    case otherPeer(String, KeyID, VolumeName)
    /// It is for another volume.
    case otherVolume(String, VolumeName, VolumeName)
    /// It is for another standby.
    case otherStandby(String)
    /// The owner of the key has not signed it.
    case badSignature(String)
    /// The generation does not follow, or could not be written.
    case refused(String, GenerationHead, VolumeName, Refusal)

    package var description: String {
        switch self {
        case .damaged(let path, let reason): "\(path) was not imported: \(reason)"
        case .noPeer(let name):
            "volume \(name) belongs to no source host yet"
        case .otherPeer(let path, let key, let name):
            "\(path) is not from the source host that volume \(name) belongs to, but from \(key)"
        case .otherVolume(let path, let found, let name):
            "\(path) holds volume \(found), not \(name)"
        case .otherStandby(let path):
            "\(path) was exported for another standby than this one"
        case .badSignature(let path):
            "\(path) was not imported: it is not what its source host has signed (bad-signature)"
        case .refused(let path, let head, let name, let refusal):
            "generation \(head.number) of \(path) was not imported into volume \(name): \(refusal)"
        }
    }

    package var refusalRule: RefusalRule? {
        switch self {
        case .damaged: .badExport
        case .noPeer: .noPeer
        case .otherPeer: .otherPeer
        case .otherVolume: .otherVolume
        case .otherStandby: .otherStandby
        case .badSignature: .badSignature
        case .refused(_, _, _, let refusal): refusal.refusalRule
        }
    }
}

/// How far an import is.
package enum ImportProgress: Sendable {
    /// Bytes of the file that were checked, and all of them.
    case checking(UInt64, UInt64)
    /// Bytes of content that are durable, and all of them.
    case reading(UInt64, UInt64)
    /// What the standby does in a session too.
    case session(Progress)
}

/// What came of an import.
package struct ImportResult: Sendable {
    package enum Kind: Equatable, Sendable {
        case full
        case delta(from: UInt64)
        /// Nothing: the volume has this generation.
        case upToDate
    }
    package var kind: Kind
    package var head: GenerationHead
    package var id: SHA256Digest
    /// Bytes of data in the change list.
    package var changedByteCount: UInt64
    package var fileByteCount: UInt64
    /// Segments that an earlier import had brought already.
    package var resumedSegments: UInt64 = 0
    package var plannedSegments: UInt64
    package var nanoseconds: UInt64 = 0
    /// What the operator should know although it went well.
    package var notes: [String] = []

    fileprivate init(_ file: ExportFileReader) {
        let begin = file.header.begin
        kind = begin.head.kind == .full ? .full : .delta(from: begin.head.number - 1)
        head = begin.head
        id = file.trailer.statement.generation
        changedByteCount = begin.plannedContent
        fileByteCount = file.byteCount
        plannedSegments = begin.plannedSegments
    }
}

extension Administration {
    /// Brings the generation in a file to a volume, as a session with the source host would.
    ///
    /// 1. The file is checked as a whole: its key is that of the volume's peer, and has signed every byte. *Nothing of
    ///    the volume was changed.*
    /// 2. From here on it is a session (`IncomingTransfer`), and a crash leaves what one leaves. The file can be
    ///    imported again: what is durable is not written again.
    ///
    /// - Parameter isDryRun: ends after 1, and after asking whether the generation would be admitted.
    package func importFile(
        _ path: String, into name: VolumeName, isDryRun: Bool,
        _ progress: @escaping (ImportProgress) -> Void
    ) throws -> ImportResult {
        let began = Clock.monotonic()
        guard let volume = try home.catalog.volume(name) else {
            throw AdministrationError.unknownVolume(name)
        }
        guard let peer = volume.peer else { throw ImportError.noPeer(name) }
        let file = try ExportFileReader(path: path)
        guard let sender = file.sender else { throw ImportError.badSignature(path) }
        guard sender == peer else { throw ImportError.otherPeer(path, sender, name) }
        guard file.header.volume == name else {
            throw ImportError.otherVolume(path, file.header.volume, name)
        }
        guard file.header.standby == (try home.identity().keyID) else {
            throw ImportError.otherStandby(path)
        }
        try file.verify { progress(.checking($0, file.byteCount)) }
        var result = ImportResult(file)
        do {
            if isDryRun {
                try admit(file, volume, &result)
            } else {
                try transfer(file, peer, &result, progress)
            }
        } catch let refusal as Refusal {
            throw ImportError.refused(path, file.header.begin.head, name, refusal)
        }
        result.nanoseconds = Clock.monotonic() - began
        return result
    }

    /// Whether the volume has the generation of a file, and nothing is wrong with it.
    private static func has(_ state: StandbyState, _ file: ExportFileReader) -> Bool {
        [.consistent, .staging, .prepared].contains(state.state)
            && state.committedID == file.trailer.statement.generation
    }

    /// Asks the catalog whether the generation would be taken.
    private func admit(
        _ file: ExportFileReader, _ volume: StandbyVolume, _ result: inout ImportResult
    ) throws {
        let target = try TargetObject(path: volume.targetPath)
        let state = StandbyState(
            state: volume.state, targetKind: target.kind, targetSize: target.byteCount,
            lineage: volume.lineage ?? .none, committedNumber: volume.committed?.head.number ?? 0,
            committedID: volume.committed?.id ?? .zero, transfer: .none, durableSegments: 0)
        if Self.has(state, file) { return result.kind = .upToDate }
        let memory = Lineage.StandbyMemory(
            state: state, committedSize: volume.committed?.head.volumeSize,
            unfinished: volume.transfer?.begin)
        if case .refuse(let refusal) = Lineage.admit(file.header.begin, memory) { throw refusal }
    }

    /// Does what a session with the file's frames would do.
    private func transfer(
        _ file: ExportFileReader, _ peer: KeyID, _ result: inout ImportResult,
        _ progress: @escaping (ImportProgress) -> Void
    ) throws {
        let answers = Answers(progress)
        let transfer = IncomingTransfer(home, peer: peer) { answers.take($0) }
        defer { result.notes = answers.notes }
        try transfer.open(file.header.volume)
        if let state = answers.state, Self.has(state, file) { return result.kind = .upToDate }
        var begin = file.header.begin
        // All of them are in the file.
        begin.heldSegments = begin.plannedSegments
        try transfer.begin(begin)
        result.resumedSegments = answers.nextSegment
        // The session checks what it gets; what it has already is checked here.
        var checker = TransferChecker(begin)
        try file.forEach { frame in
            let isNew = checker.segmentIndex >= answers.nextSegment
            switch frame {
            case .record(let record, let memory, let start):
                try checking(file.path) { () throws(WireError) in try checker.add(record) }
                if isNew { try transfer.record(record, memory, start: start) }
            case .seal(let seal):
                try checking(file.path) { () throws(WireError) in
                    try checker.seal(expecting: seal)
                }
                if isNew { try transfer.seal(seal) }
                let done = min(checker.sealedContent, begin.plannedContent)
                progress(.reading(done, begin.plannedContent))
            case .commit(let record):
                try transfer.commit(record)
            }
        }
        guard answers.isCommitted else {
            throw Refusal(.storage, "the generation was read, and not committed")
        }
    }

    private func checking(_ path: String, _ body: () throws(WireError) -> Void) throws {
        do { try body() } catch { throw ImportError.damaged(path, "\(error)") }
    }
}

/// What a session has answered.
private final class Answers {
    private let progress: (ImportProgress) -> Void
    private(set) var state: StandbyState?
    private(set) var nextSegment: UInt64 = 0
    private(set) var isCommitted = false
    private(set) var notes: [String] = []

    init(_ progress: @escaping (ImportProgress) -> Void) { self.progress = progress }

    func take(_ outcome: IncomingTransfer.Outcome) {
        switch outcome {
        case .opened(let state): self.state = state
        case .ready(let ready): nextSegment = ready.nextSegment
        case .progress(let progress): self.progress(.session(progress))
        case .committed: isCommitted = true
        case .note(let text): notes.append(text)
        default: break
        }
    }
}
