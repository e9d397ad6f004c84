// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform
internal import Wire

/// Makes ranges of a target read as zeros, giving storage back where that leaves zeros.
///
/// A file gets holes, which read as zeros by definition. A block device gets zeros written
/// (`BLKZEROOUT`), since what a discarded range reads as is a device's own affair. Only a thin volume
/// gets discards, under the conditions of `method(of:byteCount:)`; even there each is read back, because
/// a pool may drop a discard that meets other I/O.
package final class Zeroing {
    /// How whole units are zeroed.
    package enum Method: Equatable, Sendable {
        /// Punch a hole.
        case hole
        /// Let the kernel write zeros.
        case write
        /// Discard whole pool blocks, of so many bytes. Where nothing proves that a pool zeroes a new block of which a part
        /// is written, units are filled: zeros are written to all of one before a part of it is written.
        case discard(unit: UInt64, isFilled: Bool)
    }

    /// How it is done now.
    package private(set) var method: Method
    private let file: File
    private let memory = AlignedBuffer(byteCount: Limits.recordContent)
    /// Bytes that the kernel is asked to zero at once.
    private static let step: UInt64 = 1 << 30
    /// The last unit that was found to have storage.
    private var filled: UInt64?

    /// For a target that is open for writing.
    package init(_ file: File, _ status: FileStatus) {
        self.file = file
        guard let device = status.device else {
            method = .hole
            return
        }
        method = Self.method(of: BlockDevice(device), byteCount: status.byteCount)
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
        case .discard(let unit, _):
            filled = nil
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

    /// Prepares a range for being written: a unit at one of its ends that has nothing but zeros, and so perhaps no storage,
    /// gets zeros as a whole, so that what is not written of it stays zeros.
    package func fill(endsOf range: Range<UInt64>) throws(SystemCallError) {
        guard case .discard(let unit, true) = method else { return }
        for end in [range.lowerBound, range.upperBound] where end % unit != 0 {
            let start = end / unit * unit
            guard filled != start else { continue }
            let got = try file.read(at: start, into: memory, count: Int(unit))
            if memory.withBytes(at: 0, count: got, { $0.isAllZero }) {
                try file.zeroOut(start, count: unit)
            }
            filled = start
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

// MARK: - Choice

extension Zeroing {
    /// The greatest unit that the kernel writes at once, so that a pool shows all of it or nothing.
    private static let greatestFilled: UInt64 = 1 << 20

    /// How ranges of a device are zeroed.
    ///
    /// Discards are for logical volumes that by sysfs stand on nothing but a thin pool and take them, if device-mapper's
    /// tables prove that zeros are left. Where nobody answers for device-mapper, units are filled, if they are small enough
    /// for that.
    package static func method(of device: BlockDevice, byteCount: UInt64) -> Method {
        guard device.isThin, let unit = device.discardUnit else { return .write }
        return method(
            unit: unit, byteCount: byteCount, isProven: device.mapperAnswer?.provesDiscards,
            isWhole: device.isLogicalVolume)
    }

    /// The same from what is known.
    ///
    /// - Parameter isProven: what the tables say; nil where nobody answers.
    package static func method(
        unit: UInt64, byteCount: UInt64, isProven: Bool?, isWhole: Bool
    ) -> Method {
        guard unit > 0, unit % 4096 == 0, isProven ?? isWhole else { return .write }
        if isProven == true { return .discard(unit: unit, isFilled: false) }
        return unit <= greatestFilled && byteCount % unit == 0
            ? .discard(unit: unit, isFilled: true) : .write
    }
}

extension Range<UInt64> {
    /// Bytes in it.
    fileprivate var length: UInt64 { upperBound - lowerBound }
}
