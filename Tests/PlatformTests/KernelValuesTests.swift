// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

@Suite("Kernel values") struct KernelValuesTests {
    @Test("times that nanoseconds can hold are exact, and all others are none")
    func times() {
        #expect(KernelValues.time(seconds: 0, nanoseconds: 0) == 0)
        #expect(
            KernelValues.time(seconds: 1_753_000_000, nanoseconds: 7) == 1_753_000_000_000_000_007)
        #expect(KernelValues.time(seconds: 18_446_744_073, nanoseconds: 709_551_615) == .max)
        for (seconds, nanoseconds) in [
            (18_446_744_073, 709_551_616), (18_446_744_074, 0), (Int64.max, 999_999_999), (-1, 0),
            (-1, 999_999_999), (.min, 0), (0, -1), (0, 1_000_000_000), (0, .max), (.max, .max),
        ] as [(Int64, Int64)] {
            #expect(KernelValues.time(seconds: seconds, nanoseconds: nanoseconds) == nil)
        }
    }

    @Test("products and shares of the greatest numbers are what they are, or the greatest")
    func numbers() {
        #expect(KernelValues.bytes(1 << 54, of: 512) == 1 << 63)
        #expect(KernelValues.bytes(1 << 55, of: 512) == .max)
        #expect(KernelValues.bytes(.max, of: .max) == .max)
        #expect(KernelValues.bytes(.max, of: 0) == 0)
        #expect(KernelValues.percent(1, of: 3) == 33)
        #expect(KernelValues.percent(5, of: 0) == 100)
        #expect(KernelValues.percent(.max, of: .max) == 100)
        #expect(KernelValues.percent(.max / 2, of: .max) == 49)
        #expect(KernelValues.percent(.max, of: 99) == .max)
        #expect(KernelValues.percent(.max, of: 1) == .max)
    }

    @Test("a unit that no device has is none")
    func units() {
        for size in [512, 4096, 65_536, 1 << 20] as [Int32] {
            #expect(KernelValues.blockSize(size) == Int(size))
        }
        for size in [0, -1, .min, .max, 1, 256, 513, 1 << 21] as [Int32] {
            #expect(KernelValues.blockSize(size) == nil)
        }
        #expect(KernelValues.discardUnit(greatest: "1073741824", granularity: "65536") == 65_536)
        for (greatest, unit) in [
            ("0", "65536"), ("1", "0"), ("1", "18446744073709551615"),
            ("1", "18446744073709551616"),
            ("-1", "4096"), (nil, "4096"), ("1", nil), ("", ""), ("1", "4096x"),
        ] {
            #expect(KernelValues.discardUnit(greatest: greatest, granularity: unit) == nil)
        }
    }

    @Test("answers of SEEK_DATA and SEEK_HOLE that cannot be mean that all is data")
    func ranges() {
        #expect(KernelValues.data(from: 4096, to: 8192, asked: 0, size: 10_000) == 4096..<8192)
        #expect(KernelValues.data(from: 4096, to: .max, asked: 0, size: 10_000) == 4096..<10_000)
        #expect(KernelValues.data(from: 10_000, to: 10_001, asked: 0, size: 10_000) == nil)
        #expect(KernelValues.data(from: 0, to: 1, asked: 10_000, size: 10_000) == nil)
        for (start, end) in [(4096, 4096), (4096, 0), (0, 8192), (-1, 8192), (4096, -1)] {
            #expect(
                KernelValues.data(from: Int64(start), to: Int64(end), asked: 512, size: 10_000)
                    == 512..<10_000)
        }
    }

    @Test("files with times before 1970 and after 2554 are read, and are no one identity")
    func files() throws {
        let path = "/dev/shm/blockferry-times-\(getpid())"
        let file = try File(path: path, [.write, .createNew])
        defer { try? Directory.remove(path) }
        var stamps: Set<String> = []
        for seconds in [-7, -8, 1_753_000_000, 20_000_000_000, 20_000_000_001] {
            var times = [
                timespec(tv_sec: seconds, tv_nsec: 5), timespec(tv_sec: seconds, tv_nsec: 5),
            ]
            // SAFETY: two times are passed, as the call wants.
            #expect(unsafe utimensat(AT_FDCWD, path, &times, 0) == 0)
            let modified = try file.status().modifiedAt
            #expect(modified == (seconds == 1_753_000_000 ? 1_753_000_000_000_000_005 : nil))
            stamps.insert(try #require(try file.stamp()["mtime"]))
        }
        #expect(stamps.count == 5)
    }

    @Test("the words that this program was started with are known without /proc")
    func arguments() throws {
        let words = try #require(Process.arguments)
        #expect(words == Array(CommandLine.arguments.dropFirst()))
    }
}
