// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform
internal import Wire

/// Makes ranges of a target read as zeros and releases storage if that leaves zeros.
///
/// A file gets holes, which read as zeros by definition. A block device gets written zeros
/// (`BLKZEROOUT`), because the content of a discarded range depends on the device. Only a thin
/// volume gets discards, under the conditions of `method(of:byteCount:)`; each is read back,
/// because a pool may drop a discard that meets other I/O.
package final class Zeroing {
    /// How to zero whole units.
    package enum Method: Equatable, Sendable {
        /// Punch holes.
        case hole
        /// Let the kernel write zeros.
        case write
        /// Discard whole pool blocks of `unit` bytes. If the pool is not proven to zero a new block
        /// before a partial write, `isFilled` is set: zeros are written to the whole block first.
        case discard(unit: UInt64, isFilled: Bool)
    }

    /// The current method.
    package private(set) var method: Method
    private let file: File
    private let memory = AlignedBuffer(byteCount: Limits.recordContent)
    /// Largest number of bytes per request to the kernel.
    private static let step: UInt64 = 1 << 30
    /// Start of the last unit known to have storage.
    private var filled: UInt64?

    /// Prepares for a target that is open for writing.
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
    /// - Parameter isWanted: polled between the parts of a long range; `false` leaves the rest
    ///   unchanged.
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
                // Discards have been turned off.
                method = .write
                return try zero(range, while: isWanted)
            }
            // Discards skip the ragged ends, and the pool may have dropped one.
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

    /// Reads the whole range past every cache, and writes zeros to each 64 KiB block that is not
    /// zero.
    ///
    /// Ranges without storage are read at memory speed and stay without: a pool's block is a
    /// multiple of 64 KiB.
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

    /// Prepares a range for a write: if a unit at one of its ends contains only zeros, and so may
    /// have no storage, zeros are written to the whole unit, so that its unwritten part stays zero.
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
    /// Largest unit that the kernel writes in one request, so that a pool shows all of it or
    /// nothing.
    private static let greatestFilled: UInt64 = 1 << 20

    /// Chooses the method for a device.
    ///
    /// Discards are used for logical volumes that by sysfs lie only on a thin pool and support
    /// them, if device-mapper's tables prove that a discard leaves zeros. If device-mapper cannot
    /// be queried, units are filled, provided they are small enough.
    package static func method(of device: BlockDevice, byteCount: UInt64) -> Method {
        guard device.isThin, let unit = device.discardUnit else { return .write }
        return method(
            unit: unit, byteCount: byteCount, isProven: device.mapperAnswer?.provesDiscards,
            isWhole: device.isLogicalVolume)
    }

    /// Chooses the method from known facts.
    ///
    /// - Parameter isProven: what the tables prove; `nil` if device-mapper cannot be queried.
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
    fileprivate var length: UInt64 { upperBound - lowerBound }
}
