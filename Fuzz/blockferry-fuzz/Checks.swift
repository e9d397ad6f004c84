// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// What holds for every structure: decoded and encoded again it is the same.
func check<Structure: Message>(_ type: Structure.Type, _ bytes: [UInt8]) {
    guard let value = try? bytes.withRawSpan({ try Structure(decoding: $0) }) else { return }
    precondition(value.encoded() == bytes, "\(type) is encoded otherwise than it was decoded")
}

/// Holds a payload to that, whatever message it is.
func check(_ type: FrameType, _ bytes: [UInt8]) {
    switch type {
    case .hello: check(Hello.self, bytes)
    case .welcome: check(Welcome.self, bytes)
    case .open: check(Open.self, bytes)
    case .state: check(StandbyState.self, bytes)
    case .begin: check(Begin.self, bytes)
    case .ready: check(Ready.self, bytes)
    case .record: checkRecord(bytes, recordLength: bytes.count)
    case .seal: check(Seal.self, bytes)
    case .ack: check(Ack.self, bytes)
    case .commit: check(GenerationRecord.self, bytes)
    case .committed: check(Committed.self, bytes)
    case .refuse: check(Refusal.self, bytes)
    case .ping: check(Ping.self, bytes)
    case .progress: check(Progress.self, bytes)
    case .pair: check(Pair.self, bytes)
    case .paired: check(Paired.self, bytes)
    case .prepared: check(Prepared.self, bytes)
    case .current: check(Current.self, bytes)
    case .abandon: check(Abandon.self, bytes)
    case .compare: check(Compare.self, bytes)
    case .compared: check(Compared.self, bytes)
    case .ask: check(Ask.self, bytes)
    case .nodes: check(Nodes.self, bytes)
    case .exportKey: check(ExportKey.self, bytes)
    }
}

/// Holds a record to the specification's rules, written down again here.
func checkRecord(_ bytes: [UInt8], recordLength: Int?) {
    let decoded = bytes.withRawSpan {
        try? RecordHeader(decoding: $0, recordLength: recordLength)
    }
    guard let record = decoded else { return }
    precondition(record.encoded() == Array(bytes.prefix(record.prefixLength)))
    precondition(record.length > 0 && record.length <= Limits.volumeSize)
    precondition(record.offset <= Limits.volumeSize - record.length && record.offset % 512 == 0)
    if record.kind == .data {
        let blocks = (record.end - 1) / 65_536 - record.offset / 65_536 + 1
        precondition(record.length <= 1 << 20 && record.tags.count == Int(blocks))
        precondition(record.storedLength > 0 && record.storedLength <= Int(record.length))
    } else {
        precondition(record.tags.isEmpty && record.storedLength == 0)
    }
    let counted = bytes.withRawSpan { try? RecordHeader.byteCount(decoding: $0) }
    precondition(counted == record.prefixLength + record.storedLength)
    if let recordLength { precondition(counted == recordLength) }
}

/// Puts the CRC-32C of `covered` at `offset`, so that mutations get past it.
func mend(_ bytes: inout [UInt8], covering covered: Range<Int>, at offset: Int) {
    guard covered.upperBound <= bytes.count, offset + 4 <= bytes.count else { return }
    let checksum = bytes.withRawSpan { CRC32C.checksum($0.extracting(covered)) }
    bytes.put(UInt64(checksum), at: offset, width: 4)
}

/// The same where the checksum stands between what it covers.
func mend(
    _ bytes: inout [UInt8], covering first: Range<Int>, and second: Range<Int>, at offset: Int
) {
    let state = bytes.withRawSpan { span in
        CRC32C.update(CRC32C.update(.max, span.extracting(first)), span.extracting(second))
    }
    bytes.put(UInt64(~state), at: offset, width: 4)
}

/// Mends a record's header checksum, which covers the header and as many tags as it says.
func mendRecord(_ bytes: inout [UInt8]) {
    guard bytes.count >= 32 else { return }
    let tags = min(Int(bytes[2]) | Int(bytes[3]) << 8, Limits.recordTags)
    guard bytes.count >= 32 + tags * 16 else { return }
    mend(&bytes, covering: 0..<28, and: 32..<32 + tags * 16, at: 28)
}

/// NODES has at least 4096 bytes more than an input: the last of them counts for all that are
/// missing.
func padded(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.count >= 24, let last = bytes.last else { return bytes }
    let wanted = 24 + 4096 * (Int(bytes[16]) % 18)
    return bytes + [UInt8](repeating: last, count: max(0, wanted - bytes.count))
}
