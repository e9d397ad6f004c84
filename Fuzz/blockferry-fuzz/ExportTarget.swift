// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// Header, trailer and frames of an export file.
@Sendable func fuzzExport(_ input: [UInt8]) {
    var input = Input(input)
    let choice = input.byte()
    if choice & 1 == 0 {
        var block = Array("BFEXPORT".utf8) + input.rest()
        block += [UInt8](repeating: 0, count: max(0, ExportFormat.headerByteCount - block.count))
        mend(&block, covering: 0..<4092, at: 4092)
        let header = block.withRawSpan { try? ExportFormat.Header(decoding: $0) }
        guard let header else { return }
        precondition(header.publicKeyInfo.count <= ExportFormat.keyLimit)
        precondition(header.begin.head.kind != .resync && header.begin.group == nil)
        precondition(header.encoded() == Array(block.prefix(ExportFormat.headerByteCount)))
    } else if choice & 2 == 0 {
        var block = Array("BFEXPEND".utf8) + input.rest()
        block += [UInt8](repeating: 0, count: max(0, ExportFormat.trailerByteCount - block.count))
        mend(&block, covering: 0..<252, at: 252)
        let trailer = block.withRawSpan { span -> ExportFormat.Trailer? in
            try? ExportFormat.Trailer(decoding: span, length: (try? span.littleEndian(at: 8)) ?? 0)
        }
        guard let trailer else { return }
        precondition(trailer.signature.count <= ExportFormat.signatureLimit)
        precondition(trailer.encoded() == Array(block.prefix(ExportFormat.trailerByteCount)))
    } else {
        // Whatever comes: records only inside segments, and nothing behind COMMIT.
        var order = ExportFormat.FrameOrder()
        var last = FrameType.seal
        while !input.isEmpty {
            guard let type = FrameType(rawValue: UInt16(input.byte() % 24)) else { continue }
            let wasComplete = order.isComplete
            let sequence = order.sequence
            guard order.take(type) else {
                precondition(order.sequence == sequence)
                continue
            }
            precondition(!wasComplete && order.sequence == sequence + 1)
            precondition(type == .record || (type == .seal) == (last == .record))
            last = type
        }
    }
}
