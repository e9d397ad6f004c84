// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Glibc
internal import Platform
package import Wire

/// Reads a staging log back and proves every byte.
package final class StagingLogReader {
    /// Path of the log.
    package let path: String
    /// Header of the log.
    package let header: StagingLogFormat.Header
    private let file: File
    private let byteCount: UInt64
    private let window: Window

    /// A position between two segments.
    package struct Position: Equatable, Sendable {
        /// Offset in the file in bytes.
        package var byte: UInt64
        /// Index of the segment that starts there.
        package var index: UInt64
    }

    /// Opens a log and checks its header.
    package init(path: String) throws(StagingLogError) {
        self.path = path
        do throws(SystemCallError) {
            file = try File(openingDirect: path, .noFollow)
            byteCount = try file.status().byteCount
        } catch {
            throw StagingLogError(error)
        }
        window = Window(file, byteCount: byteCount)
        header = try window.withBytes(at: 0, count: StagingLogFormat.unit, path) {
            (bytes) throws(WireError) in
            try StagingLogFormat.Header(decoding: bytes)
        }
    }

    /// Start of the first segment.
    package var start: Position { Position(byte: UInt64(StagingLogFormat.unit), index: 0) }

    /// Receives each record of a walk and, for data, the location of its proven content.
    package typealias RecordBody<Failure: Error> =
        (RecordHeader, ContentProof.Content?) throws(Failure) -> Void

    /// Why a walk ended early.
    package enum WalkError<Failure: Error>: Error {
        case log(StagingLogError)
        case body(Failure)
    }

    /// Walks through one segment and proves each record before passing it on.
    ///
    /// In mode in place the log holds no records: the walk trusts the segment's seal and passes
    /// nothing on.
    ///
    /// - Returns: the segment's seal, and the start of the next one.
    package func walk<Failure: Error>(
        _ position: Position, _ proof: ContentProof, _ checker: inout TransferChecker,
        _ body: RecordBody<Failure>
    ) throws(WalkError<Failure>) -> (seal: Seal, next: Position) {
        let segment: StagingLogFormat.SegmentHeader
        do {
            segment = try segmentHeader(at: position)
            if header.mode == .inPlace { try skip(segment.seal, &checker) }
        } catch {
            throw .log(error)
        }
        if header.mode == .staged {
            try walkRecords(position, segment, proof, &checker, body)
        }
        let next = Position(byte: position.byte + segment.span, index: position.index + 1)
        return (segment.seal, next)
    }

    private func walkRecords<Failure: Error>(
        _ position: Position, _ segment: StagingLogFormat.SegmentHeader, _ proof: ContentProof,
        _ checker: inout TransferChecker, _ body: RecordBody<Failure>
    ) throws(WalkError<Failure>) {
        var next = position.byte + UInt64(StagingLogFormat.unit)
        let end = next + segment.recordBytes
        do {
            try checkPadding(from: end, to: position.byte + segment.span)
        } catch {
            throw .log(error)
        }
        while next < end {
            let record: RecordHeader
            let content: ContentProof.Content?
            do throws(StagingLogError) {
                record = try self.record(at: next, end: end)
                do { try checker.add(record) } catch { throw .damaged(path, error) }
                content = try self.content(of: record, at: next, proof)
            } catch {
                throw .log(error)
            }
            do { try body(record, content) } catch { throw .body(error) }
            next += UInt64(record.prefixLength + record.storedLength)
        }
        do { try checker.seal(expecting: segment.seal) } catch { throw .log(.damaged(path, error)) }
    }

    private func segmentHeader(
        at position: Position
    ) throws(StagingLogError) -> StagingLogFormat.SegmentHeader {
        let behind = position.byte + UInt64(StagingLogFormat.unit)
        return try window.withBytes(at: position.byte, count: StagingLogFormat.unit, path) {
            (bytes) throws(WireError) in
            try StagingLogFormat.SegmentHeader(
                decoding: bytes, logID: header.id, mode: header.mode,
                growth: header.begin.segmentGrowth, index: position.index,
                available: byteCount > behind ? byteCount - behind : 0)
        }
    }

    /// Checks that the bytes between the records and the next unit are zero.
    private func checkPadding(from start: UInt64, to end: UInt64) throws(StagingLogError) {
        try window.withBytes(at: start, count: Int(clamping: end - start), path) {
            (bytes) throws(WireError) in
            try StagingLogFormat.check(padding: bytes)
        }
    }

    private func record(
        at byte: UInt64, end: UInt64
    ) throws(StagingLogError) -> RecordHeader {
        let available = Int(clamping: end - byte)
        let length = try window.withBytes(
            at: byte, count: min(available, Limits.recordHeader), path
        ) { (bytes) throws(WireError) in
            try RecordHeader.byteCount(decoding: bytes)
        }
        guard length <= available else {
            throw .damaged(path, WireError("record", .truncated))
        }
        return try window.withBytes(at: byte, count: min(length, Limits.recordPrefix), path) {
            (bytes) throws(WireError) in
            try RecordHeader(decoding: bytes, recordLength: nil)
        }
    }

    private func content(
        of record: RecordHeader, at byte: UInt64, _ proof: ContentProof
    ) throws(StagingLogError) -> ContentProof.Content? {
        guard record.kind == .data else { return nil }
        let length = record.prefixLength + record.storedLength
        let place = try window.load(at: byte, count: length, path)
        do {
            return try proof.prove(record, in: window.memory, at: place + record.prefixLength)
        } catch {
            throw .damaged(path, error)
        }
    }

    private func skip(
        _ seal: Seal, _ checker: inout TransferChecker
    ) throws(StagingLogError) {
        do { try checker.skip(seal) } catch { throw .damaged(path, error) }
    }
}

/// A part of the log in memory, large enough for a record at any position.
private final class Window {
    let memory = AlignedBuffer(byteCount: 4 << 20)
    private let file: File
    private let byteCount: UInt64
    private var start: UInt64 = 0
    private var count = 0

    init(_ file: File, byteCount: UInt64) {
        self.file = file
        self.byteCount = byteCount
    }

    /// Loads a range and returns its offset in memory.
    func load(at byte: UInt64, count wanted: Int, _ path: String) throws(StagingLogError) -> Int {
        if byte < start || byte - start > UInt64(count) || count - Int(byte - start) < wanted {
            start = byte / UInt64(AlignedBuffer.alignment) * UInt64(AlignedBuffer.alignment)
            count = 0
            do {
                count = try file.read(at: start, into: memory, count: memory.byteCount)
            } catch {
                throw StagingLogError(error)
            }
        }
        let place = Int(byte - start)
        guard place <= count, count - place >= wanted else {
            throw .damaged(path, WireError("staging-log", .truncated))
        }
        return place
    }

    func withBytes<Value>(
        at byte: UInt64, count wanted: Int, _ path: String,
        _ body: (RawSpan) throws(WireError) -> Value
    ) throws(StagingLogError) -> Value {
        let place = try load(at: byte, count: wanted, path)
        do {
            return try memory.withBytes(at: place, count: wanted, body)
        } catch {
            throw .damaged(path, error)
        }
    }
}
