// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import Glibc
import Platform
import Staging
import TestSupport
import Testing
import Wire

/// A log of two segments with known content, made by the writer.
private struct Sample {
    static let volumeSize: UInt64 = 1 << 20
    static let blocks = 6
    let folder: TemporaryFolder
    let key: TagKey
    let begin: Begin
    let content: [[UInt8]]
    let record: GenerationRecord

    var path: String { "\(folder.path)/log" }

    init() throws {
        folder = try TemporaryFolder()
        key = .random()
        let head = GenerationHead(
            kind: .full, tagAlgorithm: .poly1305, lineage: .random(), number: 1, parent: .zero,
            volumeSize: Self.volumeSize, sourceTime: 0, sourceIdentity: "test")
        begin = Begin(
            transfer: .random(), head: head, plannedContent: 1 << 20, plannedSegments: 8,
            heldSegments: 0, tagKey: key)
        content = (0..<Self.blocks).map { index in
            (0..<(4096 + index * 512)).map { _ in UInt8.random(in: 0...255) }
        }
        let log = try StagingLogWriter(
            path: "\(folder.path)/log",
            header: StagingLogFormat.Header(mode: .staged, id: .random(), begin: begin))
        let tagger = Tagger(.poly1305, key: key)
        var checker = TransferChecker(begin)
        var end: UInt64 = 0
        func add(_ record: RecordHeader, _ stored: [UInt8]) throws {
            let bytes = record.encoded() + stored
            let memory = AlignedBuffer(byteCount: bytes.count)
            bytes.withRawSpan { memory.store($0, at: 0) }
            try log.append(memory, at: 0, count: bytes.count)
            try checker.add(record)
            end = record.end
        }
        for (index, bytes) in content.enumerated() {
            let tags = bytes.withRawSpan { tagger.tags(ofContent: $0, at: end) }
            try add(
                RecordHeader(
                    data: end, length: bytes.count, encoding: .raw, storedLength: bytes.count,
                    tags: tags), bytes)
            if index == 2 { try log.seal(checker.seal()) }
        }
        try add(RecordHeader(.zero, offset: end, length: Self.volumeSize - end), [])
        try log.seal(checker.seal())
        record = checker.record(sender: KeyID(.zero))
    }

    /// What the volume holds after the generation.
    var image: [UInt8] {
        let data = content.flatMap { $0 }
        return data + [UInt8](repeating: 0, count: Int(Self.volumeSize) - data.count)
    }

    func staged() throws -> StagedTransfer {
        try StagedTransfer(reading: path, algorithm: .poly1305, key: key)
    }
}

@Suite("Staging log")
struct StagingLogTests {
    @Test("what was sealed is found again, and brings a target to the generation")
    func roundTrip() throws {
        let sample = try Sample()
        #expect(try sample.staged().seals.count == 2)
        let path = try sample.folder.write([UInt8](repeating: 0xEE, count: 1 << 20), as: "target")
        let target = try Target(path: path, registered: nil)
        let redo = Redo(path: sample.path, record: sample.record, key: sample.key)
        var proven: UInt64 = 0
        try redo.prove { _, content in proven += UInt64(content?.count ?? 0) }
        #expect(proven == UInt64(sample.content.reduce(0) { $0 + $1.count }))
        for _ in 0..<2 {
            try redo.apply(to: target) { _ in }
            #expect([UInt8](try Data(contentsOf: URL(fileURLWithPath: path))) == sample.image)
        }
    }

    @Test("who wants no more ends a proof and a reading, and neither changes the log")
    func stops() throws {
        struct Enough: Error {}
        let sample = try Sample()
        let redo = Redo(path: sample.path, record: sample.record, key: sample.key)
        for wanted in 1...Sample.blocks + 1 {
            var count = 0
            func more() throws {
                count += 1
                if count == wanted { throw Enough() }
            }
            #expect(throws: Enough.self) { try redo.prove { _, _ in try more() } }
            #expect(count == wanted)
            count = 0
            #expect(throws: Enough.self) {
                try StagedTransfer(
                    reading: sample.path, algorithm: .poly1305, key: sample.key, poll: more)
            }
            #expect(count == wanted)
        }
        #expect(try sample.staged().seals.count == 2)
    }

    @Test("a log takes no more room than its generation may need")
    func reservesWhatIsNeeded() throws {
        let sample = try Sample()
        let found = try FileManager.default.attributesOfItem(atPath: sample.path)[.size] as? UInt64
        var status = stat()
        #expect(unsafe stat(sample.path, &status) == 0)
        let taken = UInt64(status.st_blocks) * 512
        #expect(taken >= (found ?? .max))
        #expect(taken <= sample.begin.plannedContent + 65_536)
    }

    @Test("a file that is larger than the volume is cut to it, however often it is done")
    func trims() throws {
        let sample = try Sample()
        let redo = Redo(path: sample.path, record: sample.record, key: sample.key)
        for excess in [0, 1, 511, 4096, 70_001] {
            let size = Int(Sample.volumeSize) + excess
            let path = try sample.folder.write(
                [UInt8](repeating: 0xEE, count: size), as: "target\(excess)")
            for _ in 0..<2 {
                try redo.apply(to: try Target(path: path, registered: nil)) { _ in }
                let found = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
                #expect(found == sample.image, "\(excess)")
            }
        }
        // What was cut off does not come back.
        let path = "\(sample.folder.path)/target4096"
        let target = try Target(path: path, registered: nil)
        try target.prepare(for: Sample.volumeSize + 4096)
        try target.sync()
        let grown = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        #expect(grown == sample.image + [UInt8](repeating: 0, count: 4096))
        #expect(target.byteCount == Sample.volumeSize + 4096)
    }

    @Test("a log cut anywhere ends before the first segment that is not whole")
    func tornTail() throws {
        let sample = try Sample()
        let whole = try Data(contentsOf: URL(fileURLWithPath: sample.path))
        let firstEnd = Int(try sample.staged().end(after: 1))
        var cuts = 0
        for length in stride(from: whole.count, through: 4096, by: -512) {
            for isZeroed in [false, true] {
                var torn = whole.prefix(length)
                if isZeroed { torn.append(Data(count: whole.count - length)) }
                try torn.write(to: URL(fileURLWithPath: sample.path))
                let found = try sample.staged().seals.count
                let isWhole = torn == whole
                // Zeros in the place of zeros are no damage.
                let holdsFirst = torn.prefix(firstEnd) == whole.prefix(firstEnd)
                #expect(found == (isWhole ? 2 : holdsFirst ? 1 : 0), "\(length)")
                if !isWhole {
                    let redo = Redo(path: sample.path, record: sample.record, key: sample.key)
                    #expect(throws: Redo.Failure.self) { try redo.prove { _, _ in } }
                }
                cuts += 1
            }
        }
        print("cuts of a staging log: \(cuts)")
        #expect(cuts > 150)
    }

    @Test("a flipped bit never brings other content to the target")
    func flippedBits() throws {
        let sample = try Sample()
        let whole = [UInt8](try Data(contentsOf: URL(fileURLWithPath: sample.path)))
        let file = try File(path: sample.path, [.write])
        var refused = 0
        var same = 0
        for _ in 0..<6000 {
            let bit = Int.random(in: 0..<whole.count * 8)
            let place = bit / 8
            try file.write([whole[place] ^ (1 << UInt8(bit % 8))], at: UInt64(place))
            do {
                let redo = Redo(path: sample.path, record: sample.record, key: sample.key)
                try redo.prove { _, _ in }
                same += 1
                // The log's id names nothing else, but it is in both headers, so that not even it may change.
                Issue.record("bit \(bit) went unnoticed")
            } catch {
                refused += 1
            }
            try file.write([whole[place]], at: UInt64(place))
        }
        print("flipped bits of a staging log: refused \(refused), same \(same)")
        #expect(refused + same == 6000)
    }

    @Test("a resumed log has no older segment behind a newer one")
    func resumeCutsTheTail() throws {
        let sample = try Sample()
        let staged = try sample.staged()
        _ = try StagingLogWriter(
            resuming: sample.path, header: staged.header, end: staged.end(after: 1))
        #expect(try sample.staged().seals.count == 1)
        #expect(try File(path: sample.path).status().byteCount == staged.end(after: 1))
    }

    @Test("the independent decoder accepts what the writer writes")
    func decoderAgrees() throws {
        let sample = try Sample()
        let root = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let output = try ToolRun(
            "/usr/bin/env", "python3", "\(root)/Protocol/decode.py", "staging-log", sample.path,
            "--json"
        ).output
        let text = String(decoding: output, as: UTF8.self)
        #expect(text.contains("\"segments\""), "\(text)")
        #expect(!text.contains("digest-mismatch") && !text.contains("tag-mismatch"), "\(text)")
    }
}

@Suite("Target")
struct TargetTests {
    @Test("random writes and zeros at any byte give what a model gives, and nothing else changes")
    func model() throws {
        let folder = try TemporaryFolder()
        let size = 600_001
        var model = (0..<size).map { _ in UInt8.random(in: 0...255) }
        let path = try folder.write(model, as: "target")
        let target = try Target(path: path, registered: nil)
        let memory = AlignedBuffer(byteCount: 1 << 18)
        var operations = 0
        for round in 0..<2500 {
            let offset = Int.random(in: 0..<size)
            let count = min(Int.random(in: 1...(round % 3 == 0 ? 100_000 : 9000)), size - offset)
            if Bool.random() {
                try target.zero(UInt64(offset), count: UInt64(count))
                model.replaceSubrange(
                    offset..<offset + count, with: repeatElement(0, count: count))
            } else {
                let bytes = (0..<count).map { _ in UInt8.random(in: 0...255) }
                let place = Int.random(in: 0...5000)
                bytes.withRawSpan { memory.store($0, at: place) }
                try target.write(memory, from: place, count: count, at: UInt64(offset))
                model.replaceSubrange(offset..<offset + count, with: bytes)
            }
            operations += 1
            if round % 250 == 249 {
                try target.sync()
                let found = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
                #expect(found == model, "after \(operations) operations")
            }
        }
        print("random operations on a target: \(operations)")
    }

    @Test("a second opener, another object in its place, and what is no target are refused")
    func refusals() throws {
        let folder = try TemporaryFolder()
        let path = try folder.write([1, 2, 3], as: "target")
        let target = try Target(path: path, registered: nil)
        #expect(throws: TargetError.inUse(path)) { _ = try Target(path: path, registered: nil) }
        #expect(throws: TargetError.self) {
            _ = try Target(path: path, registered: "id2 file inode=0")
        }
        #expect(throws: TargetError.wrongKind("/dev/null")) {
            _ = try TargetObject(path: "/dev/null")
        }
        #expect(throws: TargetError.missing("\(folder.path)/none")) {
            _ = try TargetObject(path: "\(folder.path)/none")
        }
        withExtendedLifetime(target) {}
    }

    @Test("after a failed write everything is refused, even what would succeed")
    func failureIsSticky() throws {
        // /dev/full-like behaviour of a file: a limit of its size.
        let folder = try TemporaryFolder()
        let path = try folder.write([UInt8](repeating: 0, count: 8192), as: "target")
        let target = try Target(path: path, registered: nil)
        let memory = AlignedBuffer(byteCount: 4096)
        // An offset that no file can have.
        #expect(throws: TargetError.self) {
            try target.write(memory, from: 0, count: 4096, at: 1 << 62)
        }
        #expect(throws: TargetError.self) { try target.write(memory, from: 0, count: 4096, at: 0) }
        #expect(throws: TargetError.self) { try target.sync() }
    }
}
