// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Reads the fields of one structure in order; its errors name the structure.
struct FieldReader {
    let structure: String
    private var cursor = ByteCursor()

    init(_ structure: String) {
        self.structure = structure
    }

    /// The error for this structure.
    func error(_ reason: WireError.Reason) -> WireError { WireError(structure, reason) }

    /// Offset of the next field.
    var offset: Int { cursor.offset }

    mutating func integer<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type = Value.self, _ bytes: RawSpan
    ) throws(WireError) -> Value {
        do { return try cursor.next(type, in: bytes) } catch { throw self.error(.truncated) }
    }

    mutating func fixed(_ count: Int, _ bytes: RawSpan) throws(WireError) -> [UInt8] {
        do { return try cursor.nextBytes(count, in: bytes) } catch { throw self.error(.truncated) }
    }

    /// Reads a field that must be zero.
    mutating func reserved(_ count: Int, _ bytes: RawSpan) throws(WireError) {
        for byte in try fixed(count, bytes) where byte != 0 { throw error(.reservedBits) }
    }

    /// Reads a string of `lengths` bytes that satisfies the specification's rules for strings.
    mutating func string(_ lengths: ClosedRange<Int>, _ bytes: RawSpan) throws(WireError) -> String
    {
        let count = Int(try integer(UInt16.self, bytes))
        guard lengths.contains(count) else { throw error(.badStringLength) }
        let content = try fixed(count, bytes)
        guard let text = String(validating: content, as: UTF8.self) else {
            throw error(.badStringUTF8)
        }
        guard text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }) else {
            throw error(.badStringCharacters)
        }
        return text
    }

    /// Ends the structure; no bytes may follow.
    func finish(_ bytes: RawSpan) throws(WireError) {
        if cursor.offset != bytes.byteCount { throw error(.trailingBytes) }
    }
}

extension [UInt8] {
    /// Appends a string with its 16-bit length, cut to at most `limit` bytes between characters.
    mutating func append(string: String, limit: Int) {
        var kept = string
        while kept.utf8.count > limit { kept.removeLast() }
        append(littleEndian: UInt16(kept.utf8.count))
        append(contentsOf: kept.utf8)
    }

    mutating func append(zeros count: Int) {
        append(contentsOf: repeatElement(0, count: count))
    }
}
