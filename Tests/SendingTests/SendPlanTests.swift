// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Sending
import TestSupport
import Testing
import Wire

/// What fuzzing has found in plans; the inputs are Fuzz/corpus/send-plan/finding-*.
@Suite("Send plans") struct SendPlanTests {
    /// A plan of one entry of 512 bytes, with checksums that are right.
    private func plan(offset: UInt64, volumeByteCount: UInt64) throws -> SendPlan? {
        var entry: [UInt8] = []
        entry.append(littleEndian: offset)
        entry.append(littleEndian: UInt64(512))
        var file = Array("BFPLAN01".utf8) + [UInt8](repeating: 1, count: 16)
        for number in [volumeByteCount, 1, 512, 1] { file.append(littleEndian: number) }
        file.append(littleEndian: entry.withRawSpan { CRC32C.checksum($0) })
        file.append(littleEndian: file.withRawSpan { CRC32C.checksum($0) })
        let folder = try TemporaryFolder()
        return SendPlan(reading: try folder.write(file + entry, as: "plan"))
    }

    @Test("a plan that keeps the rules is read")
    func honest() throws {
        #expect(try plan(offset: 1024, volumeByteCount: 1536)?.entryCount == 1)
        #expect(try plan(offset: 1024, volumeByteCount: 1535) == nil)
        #expect(try plan(offset: 0, volumeByteCount: Limits.volumeSize)?.entryCount == 1)
    }

    @Test("an entry between two sectors is no plan", arguments: [2, 4, 256, 510, 1026])
    func unalignedOffset(offset: UInt64) throws {
        #expect(try plan(offset: offset, volumeByteCount: 1 << 20) == nil)
    }

    @Test("a plan of a volume that the protocol does not know is refused before it is cut")
    func endNearTheLastNumber() throws {
        // Cutting this entry at the next mebibyte would overflow.
        #expect(try plan(offset: .max - 1023, volumeByteCount: .max) == nil)
        #expect(try plan(offset: 0, volumeByteCount: Limits.volumeSize + 1) == nil)
        #expect(try plan(offset: 0, volumeByteCount: 0) == nil)
    }
}
