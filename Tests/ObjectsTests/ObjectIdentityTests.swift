// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Objects
import Testing

struct ObjectIdentityTests {
    static let file = ObjectIdentity(
        .file, object: ["inode": "12", "fs-uuid": "6a:b", "generation": "7"],
        content: ["size": "4096", "mtime": "5", "ctime": "6"])

    @Test func textIsCanonical() {
        let text = "id2 file fs-uuid=6a:b generation=7 inode=12 | ctime=6 mtime=5 size=4096"
        #expect("\(Self.file)" == text)
        #expect(ObjectIdentity(text) == Self.file)
        for other in [
            "", "id2", "id2 file |", "id2 tape", "id1 file inode=1", "id2 file inode=1 ",
            "id2 file inode=1  |", "id2 file inode", "id2 file =1", "id2 file inode=1 inode=1",
            "id2 file inode=1 fs-uuid=2", "id2 file a=%2", "id2 file a=%41", "id2 file a=%fF",
            "id2 file a=%FF", "id2 file A=1", "id2 file a= ", "id2 file a=1 | b=1 | c=1",
            "id2 file a=é", "plain file:1:2:3 size=4 modified=5", "unidentified",
            "id2 file a=" + String(repeating: "a", count: 5000),
        ] { #expect(ObjectIdentity(other) == nil, "\(other)") }
    }

    @Test func valuesMayHoldAnything() {
        for value in ["", " ", "|", "a=b", "100%", "ä\u{0}\n", "/dev/vg/l v", "🐢"] {
            let identity = ObjectIdentity(.device, object: ["backing": value])
            #expect(ObjectIdentity("\(identity)") == identity)
        }
    }

    @Test func contentWithoutProofEqualsNothing() {
        var bare = Self.file
        bare.content = [:]
        #expect(!bare.hasSameContent(as: bare))
        #expect(!bare.hasSameContent(as: Self.file) && !Self.file.hasSameContent(as: bare))
        #expect(Self.file.hasSameContent(as: Self.file))
        for name in Self.file.content.keys {
            var other = Self.file
            other.content[name] = "0"
            #expect(!other.hasSameContent(as: Self.file))
            other.content[name] = nil
            #expect(!other.hasSameContent(as: Self.file))
        }
        for name in Self.file.object.keys {
            var other = Self.file
            other.object[name] = "0"
            #expect(!other.hasSameContent(as: Self.file))
        }
    }

    @Test func objectsAreComparedByWhatBothSidesKnow() {
        var other = Self.file
        other.content = [:]
        #expect(other.relation(to: Self.file) == .same)
        other.object["fs-uuid"] = nil
        #expect(other.relation(to: Self.file) == .same)
        other.object["inode"] = "13"
        other.object["generation"] = "8"
        #expect(other.relation(to: Self.file) == .different(["generation", "inode"]))
        other.object = ["mark": "1"]
        #expect(other.relation(to: Self.file) == .unknown)
        #expect(ObjectIdentity(.file, object: [:]).relation(to: Self.file) == .unknown)
        #expect(
            ObjectIdentity(.device, object: Self.file.object).relation(to: Self.file)
                == .different(["kind"]))
    }
}
