// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Session
import Wire

/// A frame with its payload: any bytes, or a message, under checksums that are right.
@Sendable func fuzzFrame(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    var frame: [UInt8]
    if choice & 1 == 0 {
        frame = input.rest()
    } else {
        let type = FrameType.allCases[Int(input.byte()) % FrameType.allCases.count]
        let payload = input.payload(of: type)
        guard payload.count <= type.payloadLimit else { return }
        frame = FrameHeader(
            type: type, payloadLength: payload.count, sequence: UInt64(choice),
            payloadChecksum: 0
        ).encoded()
        frame += payload
        frame.spoil(&input)
    }
    mendFrame(&frame, choice)
    let header = frame.withRawSpan { span -> FrameHeader? in
        let sequence: UInt64 = (try? span.littleEndian(at: 8)) ?? 0
        return try? FrameHeader(
            decoding: span, expecting: choice & 64 == 0 ? sequence : sequence &+ 1)
    }
    guard let header else { return }
    precondition(choice & 64 == 0, "a frame is taken that is not the next one")
    precondition(header.payloadLength <= header.type.payloadLimit)
    precondition(header.encoded() == Array(frame.prefix(32)))
    guard frame.count - 32 >= header.payloadLength else { return }
    let payload = Array(frame[32..<32 + header.payloadLength])
    payload.withRawSpan { span in
        let isRight = (try? header.check(payload: span)) != nil
        precondition(isRight == (XXH3.hash(span) == header.payloadChecksum))
        guard isRight else { return }
        let fromSender = (try? SenderMessage(header.type, span)) ?? nil
        let fromReceiver = (try? ReceiverMessage(header.type, span)) ?? nil
        guard fromSender != nil, fromReceiver != nil else { return }
        precondition(
            [.ping, .refuse].contains(header.type), "a type of one direction goes both ways")
    }
}

/// Mends the payload's checksum, then the header's, unless the input says otherwise.
private func mendFrame(_ frame: inout [UInt8], _ choice: UInt8) {
    guard frame.count >= 32 else { return }
    if choice & 6 != 6 {
        let length = frame.withRawSpan { (try? $0.littleEndian(at: 0, as: UInt32.self)) ?? 0 }
        let end = min(frame.count, 32 + Int(length))
        let checksum = frame.withRawSpan { XXH3.hash($0.extracting(32..<end)) }
        frame.put(checksum, at: 16, width: 8)
    }
    if choice & 56 != 56 { mend(&frame, covering: 0..<28, at: 28) }
}

/// A payload of any type: any bytes, or a message that is mostly right.
@Sendable func fuzzMessage(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    let type = FrameType.allCases[Int(choice >> 1) % FrameType.allCases.count]
    var payload: [UInt8]
    if choice & 1 == 0 {
        payload = input.rest()
        if type == .nodes { payload = padded(payload) }
    } else {
        payload = input.payload(of: type)
        payload.spoil(&input)
    }
    if type == .record { mendRecord(&payload) }
    check(type, payload)
}

/// A record's header, its tags and what follows, held against a volume.
@Sendable func fuzzRecord(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    var record: [UInt8]
    if choice & 4 == 0 {
        record = input.rest()
    } else {
        record = recordPayload(
            input.recordHeader(after: 512 * UInt64(input.byte()), in: input.volumeSize()))
        record.spoil(&input)
    }
    if choice & 1 == 0 { mendRecord(&record) }
    let length = choice & 2 == 0 ? record.count : nil
    checkRecord(record, recordLength: length)
    let prefix = record.withRawSpan {
        try? RecordHeader.prefixLength(decoding: $0, recordLength: length)
    }
    let decoded = record.withRawSpan { try? RecordHeader(decoding: $0, recordLength: length) }
    guard let header = decoded else { return }
    precondition(prefix == header.prefixLength)
    let size = input.volumeSize()
    let isTaken =
        (try? header.check(volumeSize: size, previousEnd: UInt64(choice) << 9, isFull: false))
        != nil
    precondition(
        isTaken
            == (header.end <= size && header.offset >= UInt64(choice) << 9
                && (header.length % 512 == 0 || header.end == size)))
}
