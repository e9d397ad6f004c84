// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Numbers as a kernel, a file system or a driver gives them, made into those that are calculated with.
///
/// They are input: a file system on FUSE, an image or a driver can say anything, and no arithmetic on it may trap.
package enum KernelValues {
    /// Nanoseconds since 1970-01-01 UTC; nothing for times before that, after 2554, and those that are none.
    package static func time(seconds: Int64, nanoseconds: Int64) -> UInt64? {
        guard let whole = UInt64(exactly: seconds), let rest = UInt64(exactly: nanoseconds),
            rest < nanosecondsPerSecond
        else { return nil }
        let product = whole.multipliedReportingOverflow(by: nanosecondsPerSecond)
        let sum = product.partialValue.addingReportingOverflow(rest)
        return product.overflow || sum.overflow ? nil : sum.partialValue
    }

    /// Bytes in so many units, or as many as there can be.
    package static func bytes(_ units: UInt64, of unit: UInt64) -> UInt64 {
        let product = units.multipliedReportingOverflow(by: unit)
        return product.overflow ? .max : product.partialValue
    }

    /// How many percent a part is of the whole; all of it where there is nothing. More than 100 where that is said.
    package static func percent(_ part: UInt64, of whole: UInt64) -> UInt64 {
        guard whole > 0 else { return 100 }
        let product = part.multipliedFullWidth(by: 100)
        guard product.high < whole else { return .max }
        return whole.dividingFullWidth(product).quotient
    }

    /// The unit of direct I/O that a device names, in bytes: a power of two that a buffer can have. Nothing for another one.
    package static func blockSize(_ value: Int32) -> Int? {
        guard value >= 512, value <= 1 << 20, value & (value - 1) == 0 else { return nil }
        return Int(value)
    }

    /// The greatest data block of a thin pool.
    private static let greatestDiscard: UInt64 = 1 << 30

    /// In which units a device gives storage back, from what sysfs says; nothing if it takes no discards or names a unit
    /// that none has.
    package static func discardUnit(greatest: String?, granularity: String?) -> UInt64? {
        guard let limit = greatest.flatMap({ UInt64($0) }), limit > 0,
            let unit = granularity.flatMap({ UInt64($0) }), unit > 0, unit <= greatestDiscard
        else { return nil }
        return unit
    }

    /// Where data lies, from the answers of `SEEK_DATA` and `SEEK_HOLE` at an offset below the size. Answers that cannot be
    /// mean that all is data.
    package static func data(
        from start: Int64, to end: Int64, asked offset: UInt64, size: UInt64
    ) -> Range<UInt64>? {
        guard offset < size else { return nil }
        guard let first = UInt64(exactly: start), let last = UInt64(exactly: end), first >= offset,
            last > first
        else { return offset..<size }
        return first < size ? first..<min(last, size) : nil
    }
}
