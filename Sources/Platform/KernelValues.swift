// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Converts numbers from a kernel, a file system or a driver into safe values.
///
/// They are untrusted input: a FUSE file system, an image or a driver can report anything, and no
/// arithmetic on it may trap.
package enum KernelValues {
    /// Nanoseconds since 1970-01-01 UTC; `nil` for invalid times and for those before 1970 or after
    /// 2554.
    package static func time(seconds: Int64, nanoseconds: Int64) -> UInt64? {
        guard let whole = UInt64(exactly: seconds), let rest = UInt64(exactly: nanoseconds),
            rest < nanosecondsPerSecond
        else { return nil }
        let product = whole.multipliedReportingOverflow(by: nanosecondsPerSecond)
        let sum = product.partialValue.addingReportingOverflow(rest)
        return product.overflow || sum.overflow ? nil : sum.partialValue
    }

    /// Bytes in `units` units, saturated at the largest value.
    package static func bytes(_ units: UInt64, of unit: UInt64) -> UInt64 {
        let product = units.multipliedReportingOverflow(by: unit)
        return product.overflow ? .max : product.partialValue
    }

    /// Percentage of a part in the whole; 100 if the whole is 0, and more than 100 if the part is
    /// larger.
    package static func percent(_ part: UInt64, of whole: UInt64) -> UInt64 {
        guard whole > 0 else { return 100 }
        let product = part.multipliedFullWidth(by: 100)
        guard product.high < whole else { return .max }
        return whole.dividingFullWidth(product).quotient
    }

    /// A device's unit of direct I/O in bytes: a power of two that a buffer can have; `nil` for any
    /// other value.
    package static func blockSize(_ value: Int32) -> Int? {
        guard value >= 512, value <= 1 << 20, value & (value - 1) == 0 else { return nil }
        return Int(value)
    }

    /// Largest data block of a thin pool in bytes.
    private static let greatestDiscard: UInt64 = 1 << 30

    /// Granularity of a device's discards in bytes, from sysfs; `nil` if it does not support them
    /// or reports an impossible value.
    package static func discardUnit(greatest: String?, granularity: String?) -> UInt64? {
        guard let limit = greatest.flatMap({ UInt64($0) }), limit > 0,
            let unit = granularity.flatMap({ UInt64($0) }), unit > 0, unit <= greatestDiscard
        else { return nil }
        return unit
    }

    /// The data range, from the results of `SEEK_DATA` and `SEEK_HOLE` at an offset below the size.
    /// Impossible results count everything as data.
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
