// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// Structures of the export file (Protocol/ExportFile.md).
package enum ExportFormat {
    /// Size of the header in bytes.
    package static let headerByteCount = 1024
    /// Size of the trailer in bytes.
    package static let trailerByteCount = 256
    /// Content of a chunk in bytes; the last one may have less.
    package static let chunkByteCount = 65_536
    /// Largest DER SubjectPublicKeyInfo in bytes.
    package static let keyLimit = 256
    /// Largest signature in bytes.
    package static let signatureLimit = 128
    /// Largest file in bytes, within what one key of AES-GCM may encrypt.
    package static let fileLimit: UInt64 = 1 << 52

    /// Data authenticated with a chunk: whether it is the last one.
    package static func associated(isLast: Bool) -> [UInt8] { [isLast ? 1 : 0] }

    /// Sender and recipient of a file: the part of the header that its signature covers.
    package struct Envelope: Equatable, Sendable {
        /// Key id of the receiving standby.
        package var standby: KeyID
        /// The standby's export key, to which the content is encrypted.
        package var recipient: X25519Key
        /// HPKE's encapsulated key.
        package var encapsulated: X25519Key
        /// The sender's key: DER SubjectPublicKeyInfo.
        package var publicKeyInfo: [UInt8]
        package var volume: VolumeName

        package init(
            standby: KeyID, recipient: X25519Key, encapsulated: X25519Key, publicKeyInfo: [UInt8],
            volume: VolumeName
        ) {
            precondition((1...ExportFormat.keyLimit).contains(publicKeyInfo.count))
            self.standby = standby
            self.recipient = recipient
            self.encapsulated = encapsulated
            self.publicKeyInfo = publicKeyInfo
            self.volume = volume
        }

        /// The bytes from the standby's id on.
        private var encoded: [UInt8] {
            var bytes = standby.digest.bytes + recipient.bytes + encapsulated.bytes
            bytes.append(contentsOf: publicKeyInfo)
            bytes.append(string: volume.text, limit: 63)
            return bytes
        }

        /// The message that the header's signature covers.
        package var signed: [UInt8] { Array("blockferry export header 2".utf8) + encoded }

        /// HPKE's info.
        package var info: [UInt8] { Array("blockferry export 2".utf8) + encoded }

        fileprivate func append(to bytes: inout [UInt8]) { bytes.append(contentsOf: encoded) }
    }

    /// The first 1024 bytes of a file, which are not encrypted.
    package struct Header: Equatable, Sendable {
        package var envelope: Envelope
        /// The sender's signature of `Envelope.signed`.
        package var signature: [UInt8]

        package init(envelope: Envelope, signature: [UInt8]) {
            precondition((1...ExportFormat.signatureLimit).contains(signature.count))
            self.envelope = envelope
            self.signature = signature
        }

        /// The format number at the start of a file; `nil` if it is not an export file.
        package static func format(of bytes: RawSpan) -> UInt32? {
            var reader = FieldReader("export-header")
            guard (try? reader.fixed(8, bytes)) == magic else { return nil }
            return try? reader.integer(UInt32.self, bytes)
        }

        private static let magic = Array("BFEXPORT".utf8)

        package init(decoding bytes: RawSpan) throws(WireError) {
            var reader = FieldReader("export-header")
            guard bytes.byteCount >= ExportFormat.headerByteCount else {
                throw reader.error(.truncated)
            }
            guard try reader.fixed(8, bytes) == Self.magic else { throw reader.error(.badMagic) }
            // Check this before the checksum, which format 1 kept elsewhere.
            guard try reader.integer(UInt32.self, bytes) == 2 else {
                throw reader.error(.badFormat)
            }
            try reader.checkSealed(bytes, ExportFormat.headerByteCount)
            let keyLength = try reader.integer(UInt32.self, bytes)
            guard (1...UInt32(ExportFormat.keyLimit)).contains(keyLength) else {
                throw reader.error(.keyLength)
            }
            let signatureLength = try reader.integer(UInt32.self, bytes)
            guard (1...UInt32(ExportFormat.signatureLimit)).contains(signatureLength) else {
                throw reader.error(.signatureLength)
            }
            try reader.reserved(4, bytes)
            let standby = KeyID(try reader.digest(bytes))
            let recipient = try reader.exportKey(bytes)
            let encapsulated = try reader.exportKey(bytes)
            let publicKeyInfo = try reader.fixed(Int(keyLength), bytes)
            let name = try reader.string(1...63, bytes)
            guard let volume = VolumeName(name) else { throw reader.error(.badStringCharacters) }
            envelope = Envelope(
                standby: standby, recipient: recipient, encapsulated: encapsulated,
                publicKeyInfo: publicKeyInfo, volume: volume)
            signature = try reader.fixed(Int(signatureLength), bytes)
            try reader.reserved(ExportFormat.headerByteCount - 4 - reader.offset, bytes)
        }

        package func encoded() -> [UInt8] {
            var bytes = Self.magic
            bytes.append(littleEndian: UInt32(2))
            bytes.append(littleEndian: UInt32(envelope.publicKeyInfo.count))
            bytes.append(littleEndian: UInt32(signature.count))
            bytes.append(zeros: 4)
            envelope.append(to: &bytes)
            bytes.append(contentsOf: signature)
            bytes.seal(ExportFormat.headerByteCount)
            return bytes
        }
    }

    /// Checks that a file can hold a generation.
    package static func check(_ begin: Begin) throws(WireError) {
        guard begin.head.kind != .resync else { throw WireError("BEGIN", .badKind) }
        guard begin.group == nil else { throw WireError("BEGIN", .badMembers) }
        guard begin.heldSegments == 0 else { throw WireError("BEGIN", .heldSegments) }
    }

    /// What the sender signs: the first part of the trailer.
    package struct Statement: Equatable, Sendable {
        /// Length of the content before the trailer in bytes.
        package var length: UInt64
        /// SHA-256 of the header and of the content before the trailer.
        package var digest: SHA256Digest
        /// Id of the generation.
        package var generation: SHA256Digest

        package init(length: UInt64, digest: SHA256Digest, generation: SHA256Digest) {
            self.length = length
            self.digest = digest
            self.generation = generation
        }

        fileprivate var encoded: [UInt8] {
            var bytes = Array("BFEXPEND".utf8)
            bytes.append(littleEndian: length)
            bytes.append(contentsOf: digest.bytes)
            bytes.append(contentsOf: generation.bytes)
            return bytes
        }

        /// The message that the signature covers.
        package var signed: [UInt8] { Array("blockferry export 2".utf8) + encoded }
    }

    /// The last 256 bytes of the content.
    package struct Trailer: Equatable, Sendable {
        package var statement: Statement
        package var signature: [UInt8]

        package init(statement: Statement, signature: [UInt8]) {
            precondition((1...ExportFormat.signatureLimit).contains(signature.count))
            self.statement = statement
            self.signature = signature
        }

        /// Decodes the trailer that follows `length` bytes of content.
        package init(decoding bytes: RawSpan, length: UInt64) throws(WireError) {
            var reader = FieldReader("export-trailer")
            try reader.checkSealed(bytes, ExportFormat.trailerByteCount)
            guard try reader.fixed(8, bytes) == Array("BFEXPEND".utf8) else {
                throw reader.error(.badMagic)
            }
            guard try reader.integer(UInt64.self, bytes) == length else {
                throw reader.error(.fileLength)
            }
            let digest = try reader.digest(bytes)
            statement = Statement(
                length: length, digest: digest, generation: try reader.digest(bytes))
            let count = try reader.integer(UInt32.self, bytes)
            guard (1...UInt32(ExportFormat.signatureLimit)).contains(count) else {
                throw reader.error(.signatureLength)
            }
            try reader.reserved(4, bytes)
            signature = try reader.fixed(Int(count), bytes)
            try reader.reserved(ExportFormat.trailerByteCount - 4 - reader.offset, bytes)
        }

        package func encoded() -> [UInt8] {
            var bytes = statement.encoded
            bytes.append(littleEndian: UInt32(signature.count))
            bytes.append(zeros: 4)
            bytes.append(contentsOf: signature)
            bytes.seal(ExportFormat.trailerByteCount)
            return bytes
        }
    }

    /// Checks the order of the frames.
    package struct FrameOrder: Equatable, Sendable {
        private var last: FrameType?
        /// Sequence number of the next frame.
        package private(set) var sequence: UInt64 = 0

        package init() {}

        /// Whether COMMIT has been taken.
        package var isComplete: Bool { last == .commit }

        /// Takes the next frame.
        ///
        /// - Returns: whether the order allows it.
        package mutating func take(_ type: FrameType) -> Bool {
            switch (last, type) {
            case (nil, .begin), (.begin, .record), (.begin, .commit), (.record, .record),
                (.record, .seal), (.seal, .record), (.seal, .commit):
                break
            default: return false
            }
            last = type
            sequence += 1
            return true
        }
    }
}

extension FieldReader {
    /// Checks that `count` bytes are present and that the last four are the checksum of the others.
    fileprivate func checkSealed(_ bytes: RawSpan, _ count: Int) throws(WireError) {
        guard bytes.byteCount >= count else { throw error(.truncated) }
        let stored: UInt32
        do { stored = try bytes.littleEndian(at: count - 4) } catch { throw self.error(.truncated) }
        guard stored == CRC32C.checksum(bytes.extracting(0..<count - 4)) else {
            throw error(.headerChecksum)
        }
    }
}

extension [UInt8] {
    /// Pads with zeros up to `count` bytes, the last four of which are the checksum.
    fileprivate mutating func seal(_ count: Int) {
        append(zeros: count - 4 - self.count)
        append(littleEndian: withRawSpan { CRC32C.checksum($0) })
    }
}
