// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Foundation
import Glibc
import HPKE
import TLS
import Testing

@Suite("Identity") struct IdentityTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("an identity survives its file, which its owner alone can read")
    func roundTrip() throws {
        let identity = Identity.generate()
        let path = directory.path + "/identity.pem"
        try IdentityFile.create(path, identity)
        let copy = try IdentityFile.read(path)
        #expect(copy.keyID == identity.keyID)
        #expect(copy.pem == identity.pem)
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["identity.pem"])
        #expect(Identity.generate().keyID != identity.keyID)
    }

    @Test("openssl computes the same key id, and sees an Ed25519 certificate from 1970 to 9999")
    func oracle() throws {
        let identity = Identity.generate()
        let path = try directory.write("identity.pem", identity.pem)
        let key = directory.path + "/key.der"
        _ = try OpenSSL(["pkey", "-in", path, "-pubout", "-outform", "DER", "-out", key]).finish()
        let digest = try OpenSSL(["dgst", "-sha256", "-r", key]).finish()
        #expect(digest.hasPrefix(identity.keyID.digest.description))
        let text = try OpenSSL(["x509", "-in", path, "-noout", "-text"]).finish()
        for part in [
            "Version: 3", "Public Key Algorithm: ED25519", "Subject: CN = blockferry",
            "Issuer: CN = blockferry", "Not Before: Jan  1 00:00:00 1970 GMT",
            "Not After : Dec 31 23:59:59 9999 GMT",
        ] {
            #expect(text.contains(part), "\(part)")
        }
        let verified = try OpenSSL(["verify", "-CAfile", path, path]).finish()
        #expect(verified.contains("OK"))
    }

    @Test("an existing file is never overwritten, and nothing is left beside it")
    func noOverwriting() throws {
        let path = try directory.write("identity.pem", [1])
        #expect(throws: IdentityFileError.exists) {
            try IdentityFile.create(path, .generate())
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data([1]))
        #expect(throws: IdentityFileError.system(call: "open", errno: ENOENT)) {
            try IdentityFile.create(directory.path + "/missing/identity.pem", .generate())
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).count == 1)
    }

    @Test("rights for group or others are refused", arguments: [0o640, 0o604, 0o610, 0o602, 0o777])
    func mode(mode: UInt32) throws {
        let path = directory.path + "/identity.pem"
        try IdentityFile.create(path, .generate())
        // SAFETY: the path is passed as a C string.
        try #require(unsafe chmod(path, mode) == 0)
        #expect(throws: IdentityFileError.mode(mode)) { try IdentityFile.read(path) }
        try #require(unsafe chmod(path, 0o400) == 0)
        _ = try IdentityFile.read(path)
    }

    @Test("another user's file is refused")
    func owner() throws {
        var path = "/etc/passwd"
        var owner: UInt32 = 0
        if geteuid() == 0 {
            path = directory.path + "/identity.pem"
            owner = 12_345
            try IdentityFile.create(path, .generate())
            // SAFETY: the path is passed as a C string.
            try #require(unsafe chown(path, owner, 0) == 0)
        }
        #expect(throws: IdentityFileError.owner(owner)) { try IdentityFile.read(path) }
    }

    @Test("links, directories, pipes, devices and missing files are refused")
    func kinds() throws {
        let path = directory.path + "/identity.pem"
        try IdentityFile.create(path, .generate())
        let link = directory.path + "/link"
        let fifo = directory.path + "/fifo"
        // SAFETY: paths are passed as C strings.
        try #require(unsafe symlink(path, link) == 0 && mkfifo(fifo, 0o600) == 0)
        #expect(throws: IdentityFileError.system(call: "open", errno: ELOOP)) {
            try IdentityFile.read(link)
        }
        for other in [directory.path, fifo, "/dev/null"] {
            #expect(throws: IdentityFileError.notRegular) { try IdentityFile.read(other) }
        }
        #expect(throws: IdentityFileError.system(call: "open", errno: ENOENT)) {
            try IdentityFile.read(path + "x")
        }
    }

    @Test("a file that holds no identity is refused, and nobody is asked for a passphrase")
    func content() throws {
        func content(_ bytes: [UInt8]) throws -> String {
            let path = try directory.write("content.pem", bytes)
            // SAFETY: the path is passed as a C string.
            try #require(unsafe chmod(path, 0o600) == 0)
            return path
        }
        let one = pemParts(of: .generate())
        let two = pemParts(of: .generate())
        let plain = try content([UInt8](one.joined().utf8))
        let encrypted = try OpenSSL([
            "pkcs8", "-topk8", "-in", plain, "-passout", "pass:secret",
        ]).finish()
        let malformed = ["", "no", one[0], one[1], encrypted + one[1]]
        for text in malformed {
            let path = try content([UInt8](text.utf8))
            #expect(throws: IdentityFileError.content(.malformed)) { try IdentityFile.read(path) }
        }
        let mixed = try content([UInt8]((one[0] + two[1]).utf8))
        #expect(throws: IdentityFileError.content(.mismatch)) { try IdentityFile.read(mixed) }
        let long = try content([UInt8](repeating: 10, count: 16_385))
        #expect(throws: IdentityFileError.tooLong) { try IdentityFile.read(long) }
        // The order of the two parts does not matter.
        let swapped = try content([UInt8]((two[1] + two[0]).utf8))
        _ = try IdentityFile.read(swapped)
    }

    @Test("the export key is made once, for its owner alone, and is nothing else")
    func exportKey() throws {
        let path = directory.path + "/export-key.pem"
        let key = try ExportKeyFile.readOrCreate(path)
        #expect(try ExportKeyFile.readOrCreate(path).publicKey == key.publicKey)
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        let text = try OpenSSL(["pkey", "-in", path, "-noout", "-text"]).finish()
        #expect(text.contains("X25519 Private-Key"))
        #expect(unsafe chmod(path, 0o644) == 0)
        #expect(throws: ExportKeyFileError.self) { try ExportKeyFile.readOrCreate(path) }
        let other = try directory.write("other.pem", Identity.generate().pem)
        #expect(throws: ExportKeyFileError.self) { try ExportKeyFile.readOrCreate(other) }
        let empty = try directory.write("empty.pem", [])
        #expect(throws: ExportKeyFileError.self) { try ExportKeyFile.readOrCreate(empty) }
    }
}
