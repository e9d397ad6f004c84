// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
package import Digests
internal import HPKE
internal import Platform
internal import Session
internal import Staging
internal import TLS
package import Wire

/// Why a file was not imported.
package enum ImportError: RuledError, CustomStringConvertible {
    /// The file is not an export file, or is incomplete.
    case damaged(ExportSource, String)
    /// The file has a format that this version cannot read.
    case otherFormat(ExportSource, UInt32)
    /// No source host is paired for this volume yet.
    case noPeer(VolumeName)
    /// The file is signed by a key other than the volume's.
    case otherPeer(ExportSource, KeyID, VolumeName)
    /// It is for another volume.
    case otherVolume(ExportSource, VolumeName, VolumeName)
    /// It is for another standby.
    case otherStandby(ExportSource)
    /// The file is encrypted to a key that this standby does not have.
    case otherKey(ExportSource)
    /// The signature is not that of the key's owner.
    case badSignature(ExportSource)
    /// The generation does not follow the standby's, or could not be written.
    case refused(ExportSource, GenerationHead, VolumeName, Refusal)

    package var description: String {
        switch self {
        case .damaged(let source, let reason): "\(source) was not imported: \(reason)"
        case .otherFormat(let source, let format) where format < 2:
            "\(source) was not imported: it is of format \(format), which did not encrypt the content"
        case .otherFormat(let source, let format):
            "\(source) was not imported: it is of format \(format), which a later version writes"
        case .noPeer(let name):
            "volume \(name) belongs to no source host yet"
        case .otherPeer(let source, let key, let name):
            "\(source) is not from the source host that volume \(name) belongs to, but from \(key)"
        case .otherVolume(let source, let found, let name):
            "\(source) holds volume \(found), not \(name)"
        case .otherStandby(let source):
            "\(source) was exported for another standby than this one"
        case .otherKey(let source):
            "\(source) is encrypted to a key that this standby does not have any more"
        case .badSignature(let source):
            "\(source) was not imported: it is not what its source host has signed"
        case .refused(let source, let head, let name, let refusal):
            "generation \(head.number) of \(source) was not imported into volume \(name): \(refusal)"
        }
    }

    package var refusalRule: RefusalRule? {
        switch self {
        case .damaged: .badExport
        case .otherFormat(_, let format): format < 2 ? .badFormat : .laterFormat
        case .noPeer: .noPeer
        case .otherPeer: .otherPeer
        case .otherVolume: .otherVolume
        case .otherStandby: .otherStandby
        case .otherKey: .otherKey
        case .badSignature: .badSignature
        case .refused(_, _, _, let refusal): refusal.refusalRule
        }
    }
}

/// Progress of an import.
package enum ImportProgress: Sendable {
    /// Bytes of the file checked so far, and the total.
    case checking(UInt64, UInt64)
    /// Bytes of content that are durable, and the total.
    case reading(UInt64, UInt64)
    /// Progress that also occurs in a session.
    case session(Progress)
}

/// Result of an import.
package struct ImportResult: Sendable {
    package enum Kind: Equatable, Sendable {
        case full
        case delta(from: UInt64)
        /// The volume already has this generation.
        case upToDate
    }
    package var kind: Kind
    fileprivate var begin: Begin
    package var head: GenerationHead { begin.head }
    package var id: SHA256Digest
    /// Bytes of data in the change list.
    package var changedByteCount: UInt64
    package var fileByteCount: UInt64
    /// Segments that an earlier import had already brought.
    package var resumedSegments: UInt64 = 0
    package var plannedSegments: UInt64
    package var nanoseconds: UInt64 = 0
    /// What the operator should know despite the success.
    package var notes: [String] = []

    fileprivate init(_ begin: Begin, _ id: SHA256Digest) {
        kind = begin.head.kind == .full ? .full : .delta(from: begin.head.number - 1)
        self.begin = begin
        self.id = id
        changedByteCount = begin.plannedContent
        fileByteCount = 0
        plannedSegments = begin.plannedSegments
    }
}

extension Administration {
    /// Imports the generation in a file into a volume, as a session with the source host does.
    ///
    /// 1. The header is checked: its key is that of the volume's peer, which has signed it; so only
    ///    this peer can have made the chunks. A file is read as a whole, and every byte is proven.
    ///    *The volume is unchanged.*
    /// 2. From here on it is a session (`IncomingTransfer`), and a crash leaves what one leaves; so
    ///    does an early end of standard input. The file can be imported again: durable segments are
    ///    not written again.
    ///
    /// - Parameter isDryRun: stop after 1 and a check whether the generation would be admitted.
    package func importFile(
        _ source: ExportSource, into name: VolumeName, isDryRun: Bool,
        _ progress: @escaping (ImportProgress) -> Void
    ) throws -> ImportResult {
        let began = Clock.monotonic()
        guard let volume = try home.catalog.volume(name) else {
            throw AdministrationError.unknownVolume(name)
        }
        guard let peer = volume.peer else { throw ImportError.noPeer(name) }
        let file = try ExportFileReader(source)
        let envelope = file.header.envelope
        guard let sender = file.sender else { throw ImportError.badSignature(source) }
        guard sender == peer else { throw ImportError.otherPeer(source, sender, name) }
        guard envelope.volume == name else {
            throw ImportError.otherVolume(source, envelope.volume, name)
        }
        guard envelope.standby == (try home.identity().keyID) else {
            throw ImportError.otherStandby(source)
        }
        try file.checkSignature()
        let key = try home.exportKey()
        guard envelope.recipient == key.publicKey else { throw ImportError.otherKey(source) }
        let transfer = FileTransfer(home, peer, file, key, source, progress)
        var result: ImportResult
        do {
            if isDryRun {
                result = try transfer.check()
                try admit(&result, try writer(name))
            } else {
                if file.isRepeatable { _ = try transfer.check() }
                result = try transfer.run()
            }
        } catch let refusal as Refusal {
            guard let head = transfer.begun?.head else { throw refusal }
            throw ImportError.refused(source, head, name, refusal)
        }
        result.fileByteCount = file.byteCount
        result.nanoseconds = Clock.monotonic() - began
        return result
    }

    /// Asks the catalog and the target whether the generation would be accepted.
    private func admit(_ result: inout ImportResult, _ writer: VolumeWriter) throws {
        try writer.checkTargetUnchanged()
        let volume = writer.volume
        let target = try TargetObject(path: volume.targetPath)
        let state = StandbyState(
            state: volume.state, targetKind: target.kind, targetSize: target.byteCount,
            lineage: volume.lineage ?? .none, committedNumber: volume.committed?.head.number ?? 0,
            committedID: volume.committed?.id ?? .zero, transfer: .none, durableSegments: 0)
        if FileTransfer.has(state, result.id) { return result.kind = .upToDate }
        let memory = Lineage.StandbyMemory(
            state: state, committedSize: volume.committed?.head.volumeSize,
            unfinished: volume.transfer?.begin)
        switch Lineage.admit(result.begin, memory) {
        case .refuse(let refusal): throw refusal
        case .resume, .start(inPlace: true): _ = try writer.openTarget()
        case .start(inPlace: false):
            _ = try writer.openTarget()
            try Room.checkStaging(home, result.begin)
        }
    }
}

/// The import of one file into its volume.
private final class FileTransfer {
    private let home: StandbyHome
    private let peer: KeyID
    private let file: ExportFileReader
    private let key: RecipientKey
    private let source: ExportSource
    private let progress: (ImportProgress) -> Void
    /// The announcement, once it has been read.
    private(set) var begun: Begin?
    /// The id of the generation, once the whole file has been read.
    private var generation: SHA256Digest?

    init(
        _ home: StandbyHome, _ peer: KeyID, _ file: ExportFileReader, _ key: RecipientKey,
        _ source: ExportSource, _ progress: @escaping (ImportProgress) -> Void
    ) {
        self.home = home
        self.peer = peer
        self.file = file
        self.key = key
        self.source = source
        self.progress = progress
    }

    /// Whether the volume has a generation and is in a sound state.
    static func has(_ state: StandbyState, _ generation: SHA256Digest?) -> Bool {
        [.consistent, .staging, .prepared].contains(state.state) && state.committedID == generation
    }

    /// Reads the whole file and changes nothing.
    func check() throws -> ImportResult {
        try file.forEach(key, { progress(.checking($0, file.byteCount)) }) { frame in
            if case .begin(let begin) = frame { begun = begin }
            if case .commit(let record) = frame { generation = record.id }
        }
        return try result()
    }

    private func result() throws -> ImportResult {
        guard let begun, let generation else {
            throw ImportError.damaged(source, "it has no generation (truncated)")
        }
        return ImportResult(begun, generation)
    }

    /// Performs the session that the file's frames describe.
    func run() throws -> ImportResult {
        let answers = Answers(progress)
        let transfer = IncomingTransfer(home, peer: peer) { answers.take($0) }
        try transfer.open(file.header.envelope.volume)
        if let state = answers.state, Self.has(state, generation) {
            var result = try result()
            result.kind = .upToDate
            result.notes = answers.notes
            return result
        }
        // The session checks new segments; the ones it already has are checked here.
        var checker: TransferChecker?
        // With standard input, only the end shows whether the volume already has the generation.
        var refused: Refusal?
        try file.forEach(key) { frame in
            switch frame {
            case .begin(var begin):
                begun = begin
                checker = TransferChecker(begin)
                // The file contains all segments.
                begin.heldSegments = begin.plannedSegments
                do { try transfer.begin(begin) } catch let refusal as Refusal
                    where !file.isRepeatable
                {
                    refused = refusal
                }
            case .commit(let record):
                generation = record.id
                if refused == nil { try transfer.commit(record) }
            default:
                guard refused == nil else { return }
                try take(frame, &checker, transfer, answers)
            }
        }
        var result = try result()
        result.resumedSegments = answers.nextSegment
        result.notes = answers.notes
        if let refused {
            guard let state = answers.state, Self.has(state, generation) else { throw refused }
            result.kind = .upToDate
        } else if !answers.isCommitted {
            throw Refusal(.storage, "the generation was read, and not committed")
        }
        return result
    }

    private func take(
        _ frame: ExportFileReader.Frame, _ checker: inout TransferChecker?,
        _ transfer: IncomingTransfer, _ answers: Answers
    ) throws {
        let isNew = (checker?.segmentIndex ?? 0) >= answers.nextSegment
        if case .record(let record, let memory, let start) = frame {
            try checking { () throws(WireError) in try checker?.add(record) }
            if isNew { try transfer.record(record, memory, start: start) }
        } else if case .seal(let seal) = frame {
            try checking { () throws(WireError) in try checker?.seal(expecting: seal) }
            if isNew { try transfer.seal(seal) }
            let planned = begun?.plannedContent ?? 0
            progress(.reading(min(checker?.sealedContent ?? 0, planned), planned))
        }
    }

    private func checking(_ body: () throws(WireError) -> Void) throws {
        do { try body() } catch { throw ImportError.damaged(source, "\(error)") }
    }
}

/// Collects the session's answers.
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
