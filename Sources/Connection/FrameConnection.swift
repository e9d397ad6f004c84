// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
package import Platform
package import TLS
package import Wire

/// Frames over one TLS session, for one thread.
///
/// Reading never waits; writing waits for the socket. While writing, it stores incoming control
/// frames, so that two sides that both write do not wait for each other.
package final class FrameConnection {
    /// What has arrived.
    package enum Incoming {
        /// A frame with its payload, checked but not decoded.
        case frame(FrameType, [UInt8])
        /// A record; its bytes start at `start`.
        case record(RecordHeader, RecordMemory, start: Int)
        /// The other side ended its stream properly.
        case closed
    }

    /// Limit for control frames stored while writing; a peer that sends more does not follow the
    /// protocol.
    private static let inboxLimit = 4096

    private var session: TLSSession
    private let socket: OwnedDescriptor
    private var nextSent: UInt64 = 0
    private var nextReceived: UInt64 = 0
    private var lastSent = ContinuousClock.now
    private var lastReceived = ContinuousClock.now
    private var readInterest: Interest = .read
    private var inbox: [Incoming] = []
    /// Bytes of frames in both directions, without what TLS adds.
    package private(set) var byteCount: UInt64 = 0

    // The incoming frame: the bytes of its header, then of its payload. A record's payload starts
    // in `bytes` and continues in `memory` once the length of its tags is known.
    private var headerBytes: [UInt8] = []
    private var header: FrameHeader?
    private var bytes: [UInt8] = []
    private var memory: RecordMemory?
    private var start = 0
    private var count = 0

    /// Takes over a session and its socket.
    package init(_ session: consuming TLSSession, socket: consuming OwnedDescriptor) {
        self.session = session
        self.socket = socket
    }

    package var peer: KeyID { session.peer }

    /// Purpose of the session.
    package var applicationProtocol: ApplicationProtocol { session.applicationProtocol }

    // MARK: Reading

    /// The next frame; `nil` if it has not arrived, or if it is a record and no memory is free.
    ///
    /// - Parameter takeMemory: provides memory for a record; without it, a record is returned as a
    ///   frame without payload.
    package func receive(_ takeMemory: (() -> RecordMemory?)? = nil) throws -> Incoming? {
        inbox.isEmpty ? try read(takeMemory) : inbox.removeFirst()
    }

    private func read(_ takeMemory: (() -> RecordMemory?)?) throws -> Incoming? {
        if header == nil {
            switch try fill(\.headerBytes, upTo: Limits.frameHeader) {
            case .wait: return nil
            case .closed:
                guard headerBytes.isEmpty else { throw TLSError.truncated }
                return .closed
            case .full: break
            }
            header = try headerBytes.withRawSpan { (span) throws(WireError) in
                try FrameHeader(decoding: span, expecting: nextReceived)
            }
            nextReceived += 1
            headerBytes.removeAll(keepingCapacity: true)
        }
        guard let current = header else { return nil }
        let isRecord = current.type == .record
        guard !isRecord || takeMemory != nil else { return .frame(.record, []) }
        let first =
            isRecord ? min(current.payloadLength, Limits.recordHeader) : current.payloadLength
        guard try fillOrCut(\.bytes, upTo: first) else { return nil }
        guard isRecord else {
            let payload = bytes
            try payload.withRawSpan { (span) throws(WireError) in try current.check(payload: span) }
            header = nil
            bytes.removeAll(keepingCapacity: true)
            return .frame(current.type, payload)
        }
        return try readRecord(current, takeMemory ?? { nil })
    }

    private func readRecord(
        _ current: FrameHeader, _ takeMemory: () -> RecordMemory?
    ) throws -> Incoming? {
        if memory == nil {
            guard let taken = takeMemory() else { return nil }
            // Not checked yet; a wrong count of tags only shifts the bytes within the memory.
            let tags = bytes.withRawSpan { (try? $0.littleEndian(at: 2, as: UInt16.self)) ?? 0 }
            start =
                RecordMemory.contentStart - Limits.recordHeader
                - min(Int(tags), Limits.recordTags) * 16
            bytes.withRawSpan { taken.memory.store($0, at: start) }
            count = bytes.count
            memory = taken
        }
        guard let record = memory else { return nil }
        while count < current.payloadLength {
            let result = try record.memory.withMutableBytes(
                at: start + count, count: current.payloadLength - count
            ) { (span) throws(TLSError) in try session.read(into: &span) }
            guard case .bytes(let more) = result else { return try waiting(result) }
            note(more)
            count += more
        }
        let decoded = try record.memory.withBytes(at: start, count: current.payloadLength) {
            (span) throws(WireError) in
            try current.check(payload: span)
            return try RecordHeader(decoding: span, recordLength: current.payloadLength)
        }
        header = nil
        memory = nil
        bytes.removeAll(keepingCapacity: true)
        return .record(decoded, record, start: start)
    }

    private enum Filling { case full, wait, closed }

    private func fill(
        _ target: ReferenceWritableKeyPath<FrameConnection, [UInt8]>, upTo limit: Int
    ) throws(TLSError) -> Filling {
        while self[keyPath: target].count < limit {
            var chunk = [UInt8](repeating: 0, count: limit - self[keyPath: target].count)
            var span = chunk.mutableSpan
            var raw = unsafe span.mutableBytes
            let result = try session.read(into: &raw)
            switch result {
            case .bytes(let more):
                note(more)
                self[keyPath: target].append(contentsOf: chunk.prefix(more))
            case .wouldBlock(let interest):
                readInterest = interest
                return .wait
            case .closed: return .closed
            }
        }
        return .full
    }

    /// Does the same as `fill` in the middle of a frame, where the stream must not end.
    private func fillOrCut(
        _ target: ReferenceWritableKeyPath<FrameConnection, [UInt8]>, upTo limit: Int
    ) throws(TLSError) -> Bool {
        switch try fill(target, upTo: limit) {
        case .full: return true
        case .wait: return false
        case .closed: throw .truncated
        }
    }

    private func waiting(_ result: TLSSession.Read) throws(TLSError) -> Incoming? {
        guard case .wouldBlock(let interest) = result else { throw .truncated }
        readInterest = interest
        return nil
    }

    private func note(_ received: Int) {
        byteCount += UInt64(received)
        lastReceived = .now
    }

    // MARK: Writing

    /// Sends a message.
    package func send(_ message: some Message) throws {
        let payload = message.encoded()
        let checksum = payload.withRawSpan { XXH3.hash($0) }
        let header = takeHeader(type(of: message).type, payload.count, checksum)
        try write(header + payload)
    }

    /// Sends a record whose stored bytes start at `offset` in `content`.
    package func send(_ record: RecordHeader, _ content: AlignedBuffer?, at offset: Int) throws {
        let prefix = record.encoded()
        let count = record.storedLength
        guard let content, count > 0 else {
            let checksum = prefix.withRawSpan { XXH3.hash($0) }
            return try write(takeHeader(.record, prefix.count, checksum) + prefix)
        }
        var stream = XXH3Stream()
        prefix.withRawSpan { stream.update($0) }
        content.withBytes(at: offset, count: count) { stream.update($0) }
        let header = takeHeader(.record, prefix.count + count, stream.finish())
        try write(header + prefix)
        try content.withBytes(at: offset, count: count) { (span) throws in try write(span) }
    }

    private func takeHeader(_ type: FrameType, _ length: Int, _ checksum: UInt64) -> [UInt8] {
        defer { nextSent += 1 }
        return FrameHeader(
            type: type, payloadLength: length, sequence: nextSent, payloadChecksum: checksum
        ).encoded()
    }

    private func write(_ bytes: [UInt8]) throws {
        try bytes.withRawSpan { (span) throws in try write(span) }
    }

    private func write(_ span: RawSpan) throws {
        var done = 0
        while done < span.byteCount {
            switch try session.write(span.extracting(done..<span.byteCount)) {
            case .written(let more):
                done += more
                byteCount += UInt64(more)
                lastSent = .now
            case .wouldBlock(let interest):
                let due = lastReceived + .seconds(Limits.idleSeconds)
                let ready = try session.wait(for: interest.union(.read), until: due)
                guard !ready.isEmpty else { throw TLSError.timedOut }
                try keepIncoming()
            }
        }
    }

    /// Stores control frames that arrive while writing; a record gets no memory here and waits.
    private func keepIncoming() throws {
        while inbox.count < Self.inboxLimit, let frame = try read({ nil }) {
            inbox.append(frame)
            if case .closed = frame { return }
        }
        guard inbox.count < Self.inboxLimit else {
            throw TLSError.protocolFailure("too many frames at once")
        }
    }

    // MARK: Waiting and ending

    /// Waits until something may have arrived, or `notifier` is notified; sends PING when due.
    ///
    /// - Parameter reading: `false` while there is no memory for incoming data; silence of the
    ///   other side is then not an error.
    package func wait(
        _ notifier: Notifier?, reading: Bool = true, until limit: ContinuousClock.Instant? = nil
    ) throws {
        guard inbox.isEmpty else { return }
        let pingDue = lastSent + .seconds(Limits.pingSeconds)
        if !reading { lastReceived = .now }
        let idleDue = lastReceived + .seconds(Limits.idleSeconds)
        let ready = try session.wait(
            for: reading ? readInterest : [], alsoReadable: notifier?.descriptor,
            until: min(pingDue, idleDue, limit ?? idleDue))
        if ready.contains(.other) { notifier?.clear() }
        if reading, ready.isEmpty, .now >= idleDue { throw TLSError.timedOut }
        if .now >= pingDue { try send(Ping()) }
    }

    /// Ends this side's stream and gives the other side a moment to end its own, so that a reset
    /// does not lose the last messages.
    package func close(within moment: Duration = .seconds(2)) {
        let deadline = ContinuousClock.now + moment
        // Another holder of this object must not keep the connection open.
        defer { Socket.shutDown(socket.rawValue) }
        do {
            try session.closeNotify(deadline: deadline)
            var scratch = [UInt8](repeating: 0, count: 16_384)
            while .now < deadline {
                var span = scratch.mutableSpan
                var raw = unsafe span.mutableBytes
                switch try session.read(into: &raw) {
                case .bytes: continue
                case .closed: return
                case .wouldBlock(let interest):
                    if try session.wait(for: interest, until: deadline).isEmpty { return }
                }
            }
        } catch {
            // The session is over either way.
        }
    }
}
