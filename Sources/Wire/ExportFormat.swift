// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// Structures of the export file (Protocol/ExportFile.md).
package enum ExportFormat {
    /// Size of the header.
    package static let headerByteCount = 4096
    /// Size of the trailer.
    package static let trailerByteCount = 256
    /// The greatest DER SubjectPublicKeyInfo.
    package static let keyLimit = 256
    /// The greatest signature.
    package static let signatureLimit = 128

    /// The first 4096 bytes of a file.
    package struct Header: Equatable, Sendable {
        /// The standby that the file is for.
        package var standby: KeyID
        /// The sender's key: DER SubjectPublicKeyInfo.
        package var publicKeyInfo: [UInt8]
        /// The announcement, with `heldSegments` 0.
        package var begin: Begin
        package var volume: VolumeName

        package init(
            standby: KeyID, publicKeyInfo: [UInt8], begin: Begin, volume: VolumeName
        ) {
            precondition((1...ExportFormat.keyLimit).contains(publicKeyInfo.count))
            self.standby = standby
            self.publicKeyInfo = publicKeyInfo
            self.begin = begin
            self.begin.heldSegments = 0
            self.volume = volume
        }

        package init(decoding bytes: RawSpan) throws(WireError) {
            var reader = FieldReader("export-header")
            try reader.checkSealed(bytes, ExportFormat.headerByteCount)
            guard try reader.fixed(8, bytes) == Array("BFEXPORT".utf8) else {
                throw reader.error(.badMagic)
            }
            guard try reader.integer(UInt32.self, bytes) == 1 else {
                throw reader.error(.badFormat)
            }
            let keyLength = try reader.integer(UInt32.self, bytes)
            guard (1...UInt32(ExportFormat.keyLimit)).contains(keyLength) else {
                throw reader.error(.keyLength)
            }
            let beginLength = try reader.integer(UInt32.self, bytes)
            guard (202...1024).contains(beginLength) else { throw reader.error(.beginLength) }
            try reader.reserved(4, bytes)
            standby = KeyID(try reader.digest(bytes))
            publicKeyInfo = try reader.fixed(Int(keyLength), bytes)
            let announcement = try reader.fixed(Int(beginLength), bytes)
            let name = try reader.string(1...63, bytes)
            guard let volume = VolumeName(name) else { throw reader.error(.badStringCharacters) }
            self.volume = volume
            try reader.reserved(ExportFormat.headerByteCount - 4 - reader.offset, bytes)
            begin = try announcement.withRawSpan { (span) throws(WireError) in
                try Begin(decoding: span)
            }
            guard begin.head.kind != .resync else { throw reader.error(.badKind) }
            guard begin.group == nil else { throw reader.error(.badMembers) }
            guard begin.heldSegments == 0 else { throw reader.error(.heldSegments) }
        }

        package func encoded() -> [UInt8] {
            let announcement = begin.encoded()
            var bytes = Array("BFEXPORT".utf8)
            bytes.append(littleEndian: UInt32(1))
            bytes.append(littleEndian: UInt32(publicKeyInfo.count))
            bytes.append(littleEndian: UInt32(announcement.count))
            bytes.append(zeros: 4)
            bytes.append(contentsOf: standby.digest.bytes)
            bytes.append(contentsOf: publicKeyInfo)
            bytes.append(contentsOf: announcement)
            bytes.append(string: volume.text, limit: 63)
            bytes.seal(ExportFormat.headerByteCount)
            return bytes
        }
    }

    /// What the sender signs: the first part of the trailer.
    package struct Statement: Equatable, Sendable {
        /// Bytes of everything before the trailer.
        package var length: UInt64
        /// SHA-256 of everything before the trailer.
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

        /// The message under the signature.
        package var signed: [UInt8] { Array("blockferry export 1".utf8) + encoded }
    }

    /// The last 256 bytes of a file.
    package struct Trailer: Equatable, Sendable {
        package var statement: Statement
        package var signature: [UInt8]

        package init(statement: Statement, signature: [UInt8]) {
            precondition((1...ExportFormat.signatureLimit).contains(signature.count))
            self.statement = statement
            self.signature = signature
        }

        /// Decodes the trailer of a file that has `length` bytes before it.
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

    /// Which frame may follow which.
    package struct FrameOrder: Equatable, Sendable {
        private var last = FrameType.seal
        /// The number of the next frame.
        package private(set) var sequence: UInt64 = 0

        package init() {}

        /// Whether COMMIT has come.
        package var isComplete: Bool { last == .commit }

        /// Takes the next frame.
        ///
        /// - Returns: whether it may stand there.
        package mutating func take(_ type: FrameType) -> Bool {
            switch (last, type) {
            case (.record, .record), (.record, .seal), (.seal, .record), (.seal, .commit): break
            default: return false
            }
            last = type
            sequence += 1
            return true
        }
    }
}

extension FieldReader {
    /// Checks that `count` bytes are there and that the last four of them are the checksum of the others.
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
    /// Fills up with zeros, and appends the checksum as the last four of `count` bytes.
    fileprivate mutating func seal(_ count: Int) {
        append(zeros: count - 4 - self.count)
        append(littleEndian: withRawSpan { CRC32C.checksum($0) })
    }
}
