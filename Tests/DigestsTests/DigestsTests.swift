// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Testing

private func bytes(_ hex: String) throws -> [UInt8] {
    try #require(Hex.decode(hex.filter { $0 != " " }))
}

@Suite("SHA-256") struct SHA256Tests {
    @Test(
        "the vectors of FIPS 180-4",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
        ])
    func vectors(text: String, digest: String) {
        #expect(SHA256Digest.of([UInt8](text.utf8)).description == digest)
        var hasher = SHA256Hasher()
        for byte in text.utf8 { hasher.update([byte]) }
        let pieces = hasher.finish()
        #expect(pieces.description == digest)
    }

    @Test("a hasher starts again after finish: a million letters a, twice")
    func reuse() {
        var hasher = SHA256Hasher()
        let piece = [UInt8](repeating: UInt8(ascii: "a"), count: 1000)
        for _ in 0..<2 {
            for _ in 0..<1000 { hasher.update(piece) }
            let digest = hasher.finish()
            #expect(
                digest.description
                    == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
        }
    }

    @Test("a digest is 32 bytes, and equal to itself only")
    func value() throws {
        let digest = SHA256Digest.of([1, 2, 3])
        #expect(SHA256Digest(bytes: digest.bytes) == digest)
        #expect(SHA256Digest.zero.bytes == [UInt8](repeating: 0, count: 32))
        for count in [0, 31, 33] {
            #expect(SHA256Digest(bytes: [UInt8](repeating: 0, count: count)) == nil)
        }
        for index in 0..<32 {
            var other = digest.bytes
            other[index] ^= 1
            #expect(SHA256Digest(bytes: other) != digest)
        }
        try ([0xFF] + digest.bytes).withRawSpan { (span) throws in
            #expect(try SHA256Digest(span, at: 1) == digest)
            for offset in [-1, 2, 33, Int.max, Int.min] {
                #expect(throws: TruncatedBytes.self) { try SHA256Digest(span, at: offset) }
            }
        }
    }
}

@Suite("Tags") struct TagTests {
    @Test("the Poly1305 vector of RFC 8439 2.5.2")
    func poly1305() throws {
        let key = try #require(
            TagKey(
                bytes: bytes(
                    "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")))
        let tagger = Tagger(.poly1305, key: key)
        let text = [UInt8]("Cryptographic Forum Research Group".utf8)
        for _ in 0..<2 {
            let tag = text.withRawSpan { tagger.tag($0) }
            #expect(Hex.encode(tag.bytes) == "a8061dc1305136c6c22b8baf0c0127a9")
        }
        #expect([].withRawSpan { tagger.tag($0) }.bytes == [UInt8](key.bytes.suffix(16)))
    }

    @Test("the sha256 tag is the beginning of SHA-256(key ‖ content)")
    func sha256() {
        let key = TagKey.random()
        let tagger = Tagger(.sha256, key: key)
        for content: [UInt8] in [[], [1], [UInt8](repeating: 3, count: 70_000)] {
            let tag = content.withRawSpan { tagger.tag($0) }
            #expect(tag.bytes == [UInt8](SHA256Digest.of(key.bytes + content).bytes.prefix(16)))
        }
    }

    @Test("a record has one tag for each block it touches", arguments: TagAlgorithm.allCases)
    func pieces(algorithm: TagAlgorithm) {
        let tagger = Tagger(algorithm, key: .random())
        var content = [UInt8]()
        for index in 0..<200_000 { content.append(UInt8(truncatingIfNeeded: index &* index >> 3)) }
        var checked = 0
        for offset: UInt64 in [0, 512, 65_024, 65_536, 1 << 40 | 1024, .max - 511] {
            for length in [0, 1, 512, 65_024, 65_536, 66_048, 131_072, 200_000] {
                let record = [UInt8](content.prefix(length))
                var expected: [Digests.Tag] = []
                var block: [UInt8] = []
                for (index, byte) in record.enumerated() {
                    block.append(byte)
                    if (offset &+ UInt64(index) &+ 1) % 65_536 == 0 || index == length - 1 {
                        expected.append(block.withRawSpan { tagger.tag($0) })
                        block = []
                    }
                }
                #expect(record.withRawSpan { tagger.tags(ofContent: $0, at: offset) } == expected)
                checked += expected.count
            }
        }
        #expect(checked > 80)
    }

    @Test("another key, another content or another algorithm gives another tag")
    func differs() {
        let content = [UInt8](repeating: 5, count: 4096)
        let key = TagKey.random()
        let tag = content.withRawSpan { Tagger(.poly1305, key: key).tag($0) }
        #expect(content.withRawSpan { Tagger(.poly1305, key: .random()).tag($0) } != tag)
        #expect(content.withRawSpan { Tagger(.sha256, key: key).tag($0) } != tag)
        for index in [0, 2047, 4095] {
            var other = content
            other[index] ^= 1
            #expect(other.withRawSpan { Tagger(.poly1305, key: key).tag($0) } != tag)
        }
    }

    @Test("a tag is read and written as it is, and not past the end")
    func encoding() throws {
        let stored = [UInt8](0..<17)
        try stored.withRawSpan { (span) throws in
            #expect(try Digests.Tag(span, at: 1).bytes == [UInt8](1..<17))
            #expect(throws: TruncatedBytes.self) { try Digests.Tag(span, at: 2) }
        }
    }

    @Test("neither key nor tag shows its bytes when printed or dumped")
    func secrecy() throws {
        let key = try #require(TagKey(bytes: [UInt8](repeating: 171, count: 32)))
        var dumped = ""
        dump(key, to: &dumped)
        for text in ["\(key)", String(reflecting: key), dumped] {
            #expect(!text.contains("171") && !text.lowercased().contains("ab"))
        }
        #expect(TagKey(bytes: [1]) == nil)
        #expect(TagKey.random() != TagKey.random())
    }
}

@Suite("XXH3") struct XXH3Tests {
    @Test("no bytes hash to the number in the specification, and pieces to the whole")
    func hash() {
        #expect([].withRawSpan { XXH3.hash($0) } == 0x2D06_8005_38D3_94C2)
        let content = SecureRandom.bytes(100_000)
        let whole = content.withRawSpan { XXH3.hash($0) }
        var stream = XXH3Stream()
        let none = stream.finish()
        #expect(none == 0x2D06_8005_38D3_94C2)
        for size in [1, 31, 240, 241, 4096, 99_999] {
            for start in stride(from: 0, to: content.count, by: size) {
                let end = min(start + size, content.count)
                content.withRawSpan { stream.update($0.extracting(start..<end)) }
            }
            [].withRawSpan { stream.update($0) }
            let pieces = stream.finish()
            #expect(pieces == whole)
        }
    }
}
