// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform
internal import Wire

/// Makes ranges of a target read as zeros, giving storage back where that is proven to leave zeros.
///
/// A file gets holes, which read as zeros by definition. A block device gets zeros written
/// (`BLKZEROOUT`), since what a discarded range reads as is a device's own affair. Only a thin volume
/// for which `thinUnit` finds proof gets discards; even there each is read back, because
/// a pool may drop a discard that meets other I/O.
package final class Zeroing {
    /// How whole units are zeroed.
    package enum Method: Equatable, Sendable {
        /// Punch a hole.
        case hole
        /// Let the kernel write zeros.
        case write
        /// Discard whole pool blocks, of so many bytes.
        case discard(unit: UInt64)
    }

    /// How it is done now.
    package private(set) var method: Method
    private let file: File
    private let memory = AlignedBuffer(byteCount: Limits.recordContent)
    /// Bytes that the kernel is asked to zero at once.
    private static let step: UInt64 = 1 << 30

    /// For a target that is open for writing.
    package init(_ file: File, _ status: FileStatus) {
        self.file = file
        guard let device = status.device else {
            method = .hole
            return
        }
        method =
            Self.thinUnit(of: device, byteCount: status.byteCount).map { .discard(unit: $0) }
            ?? .write
    }

    /// Zeroes a range of whole logical blocks.
    ///
    /// - Parameter isWanted: asked between the parts of a long range; if not, the rest of the range stays as it is.
    package func zero(
        _ range: Range<UInt64>, while isWanted: () -> Bool = { true }
    ) throws(SystemCallError) {
        switch method {
        case .hole:
            if try !file.punchHole(range.lowerBound, count: range.length) {
                try writeZeros(range, while: isWanted)
            }
        case .write:
            var offset = range.lowerBound
            while offset < range.upperBound, isWanted() {
                let count = min(range.upperBound - offset, Self.step)
                try file.zeroOut(offset, count: count)
                offset += count
            }
        case .discard(let unit):
            let inner = Self.whole(units: unit, in: range)
            if !inner.isEmpty, try !file.discard(inner.lowerBound, count: inner.length) {
                // Somebody has turned discards off.
                method = .write
                return try zero(range, while: isWanted)
            }
            // The ragged ends were left alone, and whatever the pool kept is there still.
            try writeWhereNotZero(range, while: isWanted)
        }
    }

    /// The whole units inside a range.
    package static func whole(units unit: UInt64, in range: Range<UInt64>) -> Range<UInt64> {
        let end = range.upperBound / unit * unit
        let (up, overflow) = range.lowerBound.addingReportingOverflow(unit - 1)
        let start = up / unit * unit
        return overflow || start >= end ? range.lowerBound..<range.lowerBound : start..<end
    }

    /// Reads the whole range past every cache, and writes zeros into the blocks of 64 KiB where something else is.
    ///
    /// What has no storage is read at the speed of memory, and gets none by this: a pool's blocks are whole multiples
    /// of 64 KiB.
    private func writeWhereNotZero(
        _ range: Range<UInt64>, while isWanted: () -> Bool
    ) throws(SystemCallError) {
        let block = UInt64(Limits.blockByteCount)
        var offset = range.lowerBound
        while offset < range.upperBound, isWanted() {
            let count = min(range.upperBound - offset, UInt64(memory.byteCount))
            let got = UInt64(try file.read(at: offset, into: memory, count: Int(count)))
            var start = offset
            while start < offset + count {
                let end = min((start / block + 1) * block, offset + count)
                let isZero =
                    end <= offset + got
                    && memory.withBytes(at: Int(start - offset), count: Int(end - start)) {
                        $0.isAllZero
                    }
                if !isZero { try file.zeroOut(start, count: end - start) }
                start = end
            }
            offset += count
        }
    }

    private func writeZeros(
        _ range: Range<UInt64>, while isWanted: () -> Bool
    ) throws(SystemCallError) {
        memory.zero(at: 0, count: memory.byteCount)
        var offset = range.lowerBound
        while offset < range.upperBound, isWanted() {
            let count = min(range.upperBound - offset, UInt64(memory.byteCount))
            try file.write(memory, count: Int(count), at: offset)
            offset += count
        }
    }
}

// MARK: - Proof

extension Zeroing {
    /// The unit in which a thin volume's discarded blocks read as zeros, now and after they are written in part;
    /// nothing if that is not proven.
    ///
    /// Proven it is if sysfs says that the device stands on nothing but a thin pool and takes discards, and the live
    /// tables say what `isProven` asks for. Without the right to ask device-mapper there is no proof.
    package static func thinUnit(of device: DeviceNumber, byteCount: UInt64) -> UInt64? {
        let facts = BlockDevice(device)
        guard facts.isThin, let unit = facts.discardUnit, unit % 4096 == 0,
            let own = try? DeviceTable(of: device),
            let pool = poolDevice(of: own, byteCount: byteCount),
            let table = try? DeviceTable(of: pool), isProven(pool: table)
        else { return nil }
        return unit
    }

    /// The pool of a device that is one thin volume, as a whole and without an external origin: where such a volume
    /// has no block of its own, it shows the origin's, and not zeros.
    package static func poolDevice(of own: DeviceTable, byteCount: UInt64) -> DeviceNumber? {
        guard own.lines.count == 1, own.lines[0].type == "thin", own.lines[0].start == 0,
            own.lines[0].length == byteCount / 512, own.lines[0].parameters.count == 2
        else { return nil }
        return DeviceNumber(own.lines[0].parameters[0])
    }

    /// Whether a pool's discarded blocks read as zeros.
    ///
    /// Every feature must be one that is known to be harmless. `ignore_discard` keeps the content. With
    /// `skip_block_zeroing` a block that was given back reads as zeros only until a part of it is written: the rest
    /// then shows what the pool's disk held.
    package static func isProven(pool: DeviceTable) -> Bool {
        let harmless: Set<String> = ["no_discard_passdown", "error_if_no_space"]
        guard pool.lines.count == 1, pool.lines[0].type == "thin-pool" else { return false }
        let parameters = pool.lines[0].parameters
        if parameters.count == 4 { return true }
        guard parameters.count > 4, let count = Int(parameters[4]), count == parameters.count - 5
        else { return false }
        return parameters[5...].allSatisfy { harmless.contains($0) }
    }
}

extension Range<UInt64> {
    /// Bytes in it.
    fileprivate var length: UInt64 { upperBound - lowerBound }
}
