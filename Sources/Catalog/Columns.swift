// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import Foundation
internal import GRDB
internal import Wire

/// Reads the columns of a row; an unexpected value is an error, never a trap.
struct Columns {
    private let row: Row

    init(_ row: Row) {
        self.row = row
    }

    private func unreadable(_ name: String) -> CatalogError.Kind {
        .storage("the stored value \(name) cannot be read")
    }

    /// The stored value, or `nil` for NULL.
    private func stored<Value: DatabaseValueConvertible>(
        _ name: String, as type: Value.Type
    ) throws(CatalogError.Kind) -> Value? {
        guard row.hasColumn(name) else { throw unreadable(name) }
        let value: DatabaseValue = row[name]
        if value.isNull { return nil }
        guard let converted = Value.fromDatabaseValue(value) else { throw unreadable(name) }
        return converted
    }

    /// A value that is never NULL, converted by `make`.
    private func require<Value>(
        _ name: String, _ value: Value?
    ) throws(CatalogError.Kind) -> Value {
        guard let value else { throw unreadable(name) }
        return value
    }

    func optionalText(_ name: String) throws(CatalogError.Kind) -> String? {
        try stored(name, as: String.self)
    }

    func text(_ name: String) throws(CatalogError.Kind) -> String {
        try require(name, optionalText(name))
    }

    func optionalNumber(_ name: String) throws(CatalogError.Kind) -> UInt64? {
        try stored(name, as: Int64.self).map { UInt64(bitPattern: $0) }
    }

    func number(_ name: String) throws(CatalogError.Kind) -> UInt64 {
        try require(name, optionalNumber(name))
    }

    func flag(_ name: String) throws(CatalogError.Kind) -> Bool {
        try number(name) != 0
    }

    func optionalBytes(_ name: String) throws(CatalogError.Kind) -> [UInt8]? {
        try stored(name, as: Data.self).map { [UInt8]($0) }
    }

    /// A value converted from bytes; `nil` for NULL.
    func optional<Value>(
        _ name: String, _ make: ([UInt8]) -> Value?
    ) throws(CatalogError.Kind) -> Value? {
        guard let bytes = try optionalBytes(name) else { return nil }
        return try require(name, make(bytes))
    }

    func digest(_ name: String) throws(CatalogError.Kind) -> SHA256Digest {
        try require(name, optional(name) { SHA256Digest(bytes: $0) })
    }

    func key(_ name: String) throws(CatalogError.Kind) -> KeyID {
        KeyID(try digest(name))
    }

    func optionalKey(_ name: String) throws(CatalogError.Kind) -> KeyID? {
        try optional(name) { SHA256Digest(bytes: $0).map { KeyID($0) } }
    }

    func volumeName(_ name: String) throws(CatalogError.Kind) -> VolumeName {
        try require(name, VolumeName(try text(name)))
    }

    func lineage(_ name: String) throws(CatalogError.Kind) -> LineageID? {
        try optional(name) { LineageID(bytes: $0) }
    }

    func tagKey(_ name: String) throws(CatalogError.Kind) -> TagKey? {
        try optional(name) { TagKey(bytes: $0) }
    }

    func exportKey(_ name: String) throws(CatalogError.Kind) -> X25519Key? {
        try optional(name) { X25519Key(bytes: $0) }
    }

    func tagAlgorithm(_ name: String) throws(CatalogError.Kind) -> TagAlgorithm? {
        guard let value = try optionalNumber(name) else { return nil }
        return try require(name, UInt8(exactly: value).flatMap(TagAlgorithm.init(rawValue:)))
    }

    /// A value stored as its raw value.
    func enumerated<Value: RawRepresentable<UInt8>>(
        _ name: String, _ type: Value.Type
    ) throws(CatalogError.Kind) -> Value {
        try require(name, UInt8(exactly: try number(name)).flatMap(Value.init(rawValue:)))
    }

    /// A message stored as its payload.
    func message<Value: Message>(
        _ name: String, _ type: Value.Type
    ) throws(CatalogError.Kind) -> Value? {
        try optional(name) { Value(payload: $0) }
    }
}

extension Message {
    /// Decodes a payload; `nil` if it is invalid.
    fileprivate init?(payload: [UInt8]) {
        let decoded = try? payload.withRawSpan { (span) throws(WireError) in
            try Self(decoding: span)
        }
        guard let decoded else { return nil }
        self = decoded
    }

    /// The payload as it is stored.
    ///
    /// - Throws: `conflict` if it could not be read back, because that would make the catalog
    ///   unusable.
    func stored() throws(CatalogError.Kind) -> Data {
        let bytes = encoded()
        guard Self(payload: bytes) == self else {
            throw .conflict("the \(Self.type) to keep is not valid")
        }
        return Data(bytes)
    }
}

extension UInt64 {
    /// The same 64 bits as the signed integer that SQLite stores.
    var stored: Int64 { Int64(bitPattern: self) }
}

extension SHA256Digest {
    var stored: Data { Data(bytes) }
}

extension KeyID {
    var stored: Data { Data(digest.bytes) }
}

extension X25519Key {
    var stored: Data { Data(bytes) }
}

extension RandomID {
    var stored: Data { Data(bytes) }
}
