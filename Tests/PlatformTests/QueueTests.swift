// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Platform
import Synchronization
import TestSupport
import Testing

@Suite("Queue")
struct QueueTests {
    @Test("every element arrives once and in order, and a full queue makes the producer wait")
    func orderAndBound() {
        let queue = BoundedQueue<Int>(capacity: 3)
        let producer = Thread("producer") {
            for number in 0..<20_000 { queue.push(number) }
            queue.close()
        }
        var expected = 0
        while let number = queue.pop() {
            #expect(number == expected)
            expected += 1
        }
        producer.join()
        #expect(expected == 20_000)
        #expect(queue.isFinished && !queue.push(1))
    }

    @Test("closing wakes both sides")
    func closing() {
        let empty = BoundedQueue<Int>(capacity: 1)
        let full = BoundedQueue<Int>(capacity: 1)
        full.push(1)
        let waiting = Atomic(0)
        let threads = [
            Thread("consumer") { if empty.pop() == nil { waiting.add(1, ordering: .relaxed) } },
            Thread("producer") { if !full.push(2) { waiting.add(1, ordering: .relaxed) } },
        ]
        empty.close()
        full.close(discarding: true)
        for thread in threads { thread.join() }
        #expect(waiting.load(ordering: .relaxed) == 2)
        #expect(full.pop() == nil)
    }
}

@Suite("Files")
struct FileTests {
    @Test("a replaced file is the old one or the new one, and a left-over is no hindrance")
    func replace() throws {
        let folder = try TemporaryFolder()
        let path = try folder.write([1, 2, 3], as: "file")
        _ = try folder.write([9], as: "file.new")
        try Directory.replace(path, with: [4, 5])
        #expect(try File(path: path).readAll(limit: 10) == [4, 5])
        #expect(try Directory.names(in: folder.path) == ["file"])
    }

    @Test("a lock is held by one, and given back with its owner")
    func lock() throws {
        let folder = try TemporaryFolder()
        let path = "\(folder.path)/lock"
        var first = try FileLock(path: path)
        #expect(first != nil)
        #expect(try FileLock(path: path) == nil)
        first = nil
        // A child that another test starts just now has the descriptor until it has become its program.
        var second = try FileLock(path: path)
        for _ in 0..<500 where second == nil {
            Clock.sleep(milliseconds: 10)
            second = try FileLock(path: path)
        }
        #expect(first == nil && second != nil)
    }

    @Test("an aligned reader gives any range, and refuses what lies past the end")
    func alignedReader() throws {
        let folder = try TemporaryFolder()
        let bytes = (0..<70_001).map { _ in UInt8.random(in: 0...255) }
        let reader = try AlignedReader(path: try folder.write(bytes, as: "file"))
        let memory = AlignedBuffer(byteCount: 1 << 17)
        for _ in 0..<500 {
            let offset = Int.random(in: 0..<bytes.count)
            let count = Int.random(in: 1...(bytes.count - offset))
            let place = Int.random(in: 0...4096)
            try reader.read(at: UInt64(offset), into: memory, at: place, count: count)
            let found = memory.withBytes(at: place, count: count) { span in
                (try? span.copyBytes(at: 0, count: count)) ?? []
            }
            #expect(found == Array(bytes[offset..<offset + count]))
        }
        #expect(throws: SystemCallError.self) {
            try reader.read(at: 70_000, into: memory, at: 0, count: 2)
        }
    }
}
