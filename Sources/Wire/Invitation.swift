// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// What `blockferryd invite` prints and `blockferry pair` takes (Specification 9).
package struct Invitation: Equatable, Sendable {
    /// The receiver's key.
    package var receiver: KeyID
    /// Sixteen random bytes, shown once.
    package var secret: [UInt8]
    package var volume: VolumeName
    /// Address at which the receiver listens: host:port.
    package var address: String

    package init(receiver: KeyID, secret: [UInt8], volume: VolumeName, address: String) {
        self.receiver = receiver
        self.secret = secret
        self.volume = volume
        self.address = address
    }

    private static let prefix = "bf1."

    /// Parses an invitation.
    package init(text: String) throws(WireError) {
        var reader = FieldReader("invitation")
        // Compare bytes: `hasPrefix` compares characters, and the last one may include what
        // follows.
        guard text.utf8.starts(with: Self.prefix.utf8) else { throw reader.error(.badPrefix) }
        let encoded = String(decoding: text.utf8.dropFirst(Self.prefix.utf8.count), as: UTF8.self)
        guard let bytes = Base32.decode(encoded, .lower) else {
            throw reader.error(.badBase32)
        }
        guard bytes.count >= 4 else { throw reader.error(.truncated) }
        let body = Array(bytes.dropLast(4))
        var checksum: [UInt8] = []
        checksum.append(littleEndian: body.withRawSpan { CRC32C.checksum($0) })
        guard Array(bytes.suffix(4)) == checksum else { throw reader.error(.checksum) }
        self = try body.withRawSpan { (span) throws(WireError) in
            guard try reader.integer(UInt8.self, span) == 1 else {
                throw reader.error(.badVersion)
            }
            let receiver = KeyID(try reader.digest(span))
            let secret = try reader.fixed(16, span)
            let name = try reader.string(1...63, span)
            guard let volume = VolumeName(name) else { throw reader.error(.badStringCharacters) }
            let address = try reader.string(1...255, span)
            guard Address.isValid(address) else { throw reader.error(.badAddress) }
            try reader.finish(span)
            return Invitation(
                receiver: receiver, secret: secret, volume: volume, address: address)
        }
    }

    /// The text to show to the operator.
    package var text: String {
        var bytes: [UInt8] = [1]
        bytes.append(contentsOf: receiver.digest.bytes)
        bytes.append(contentsOf: secret)
        bytes.append(string: volume.text, limit: 63)
        bytes.append(string: address, limit: 255)
        bytes.append(littleEndian: bytes.withRawSpan { CRC32C.checksum($0) })
        return Self.prefix + Base32.encode(bytes, .lower)
    }
}
