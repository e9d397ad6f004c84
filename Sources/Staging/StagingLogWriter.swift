// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform
package import Wire

/// Why a staging log cannot be written or read.
package enum StagingLogError: Error, Sendable, CustomStringConvertible {
    /// The file system has no space for it.
    case noSpace(String)
    /// Reading, writing or flushing failed.
    case failed(SystemCallError)
    /// The log is not valid.
    case damaged(String, WireError)

    init(_ error: SystemCallError) {
        self = error.isNoSpace ? .noSpace(error.subject) : .failed(error)
    }

    package var description: String {
        switch self {
        case .noSpace(let path): "no room for the staging log \(path)"
        case .failed(let error): error.description
        case .damaged(let path, let error): "the staging log \(path) is damaged: \(error)"
        }
    }
}

/// Appends segments to a staging log (Protocol/StagingLog.md).
///
/// Do not use it after a failure: the log is dropped, which is always safe because the target is
/// unchanged.
package final class StagingLogWriter {
    /// Space reserved past the end in bytes, to find a full file system before data arrives.
    private static let reserveAhead: UInt64 = 64 << 20
    private static let stageByteCount = 4 << 20

    private let file: File
    private let header: StagingLogFormat.Header
    private var segmentStart: UInt64
    private var recordBytes: UInt64 = 0
    /// The part of the segment that is not written yet: `staged` bytes of `stage`.
    private let stage = AlignedBuffer(byteCount: stageByteCount)
    private var staged = 0
    private var stagePosition: UInt64 = 0
    private var reservedUpTo: UInt64

    /// Makes a new log and syncs the directory. The file must not exist.
    package init(path: String, header: StagingLogFormat.Header) throws(StagingLogError) {
        self.header = header
        segmentStart = UInt64(StagingLogFormat.unit)
        reservedUpTo = 0
        do throws(SystemCallError) {
            file = try File(openingDirect: path, [.write, .createNew, .noFollow])
            stage.store(bytes: header.encoded(), at: 0)
            try file.write(stage, count: StagingLogFormat.unit, at: 0)
            try file.sync()
            try Directory.sync(Directory.parent(of: path))
        } catch {
            throw StagingLogError(error)
        }
        startSegment()
    }

    /// Continues a log whose valid part ends at `end`. It cuts off the rest and syncs the cut, so
    /// that no older segment can follow a newer one.
    package init(
        resuming path: String, header: StagingLogFormat.Header, end: UInt64
    ) throws(StagingLogError) {
        self.header = header
        segmentStart = end
        reservedUpTo = end
        do throws(SystemCallError) {
            file = try File(openingDirect: path, [.write, .noFollow])
            try file.truncate(to: end)
            try file.sync()
        } catch {
            throw StagingLogError(error)
        }
        startSegment()
    }

    /// Adds a record to the open segment: header and tags at `offset` in `memory`, followed by the
    /// stored bytes.
    package func append(
        _ memory: AlignedBuffer, at offset: Int, count: Int
    ) throws(StagingLogError) {
        var done = 0
        while done < count {
            let part = min(count - done, stage.byteCount - staged)
            stage.copy(from: memory, at: offset + done, to: staged, count: part)
            staged += part
            done += part
            if staged == stage.byteCount { try flushStage() }
        }
        recordBytes += UInt64(count)
    }

    /// Ends the segment and makes it durable.
    ///
    /// 1. The rest of the records is written, then the header. A crash leaves an invalid segment.
    /// 2. fdatasync. From here on recovery finds the segment.
    package func seal(_ seal: Seal) throws(StagingLogError) {
        let padded = Int(StagingLogFormat.padded(UInt64(staged)))
        if padded > staged { stage.zero(at: staged, count: padded - staged) }
        staged = padded
        try flushStage()
        let segment = StagingLogFormat.SegmentHeader(
            logID: header.id, seal: seal, recordBytes: recordBytes)
        stage.store(bytes: segment.encoded(), at: 0)
        do {
            try file.write(stage, count: StagingLogFormat.unit, at: segmentStart)
            try file.sync()
        } catch {
            throw StagingLogError(error)
        }
        segmentStart += segment.span
        startSegment()
    }

    private func startSegment() {
        recordBytes = 0
        staged = 0
        stagePosition = segmentStart + UInt64(StagingLogFormat.unit)
    }

    private func flushStage() throws(StagingLogError) {
        guard staged > 0 else { return }
        do {
            let end = stagePosition + UInt64(staged)
            if end > reservedUpTo {
                // Reserve no more than the generation needs: there may be no more space.
                let left = max(header.begin.plannedContent, end) - end
                let ahead = min(left, Self.reserveAhead)
                _ = try file.reserve(from: stagePosition, count: UInt64(staged) + ahead)
                reservedUpTo = end + ahead
            }
            try file.write(stage, count: staged, at: stagePosition)
        } catch {
            throw StagingLogError(error)
        }
        stagePosition += UInt64(staged)
        staged = 0
    }
}

extension AlignedBuffer {
    /// Copies an array into the buffer.
    func store(bytes: [UInt8], at offset: Int) {
        bytes.withRawSpan { store($0, at: offset) }
    }
}
