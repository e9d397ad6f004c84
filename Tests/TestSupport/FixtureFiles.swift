// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Foundation

/// What a test could not do without.
package struct FixtureFailure: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

/// Files of `Tests/Fixtures`, by their path from there.
package enum FixtureFiles {
    /// The folder.
    package static let root: String = {
        let parts = #filePath.split(separator: "/").dropLast(2)
        return "/" + parts.joined(separator: "/") + "/Fixtures"
    }()

    /// The content of a file, decompressed if its name ends in `.zst` or `.gz`.
    package static func bytes(_ path: String) throws -> [UInt8] {
        let file = "\(root)/\(path)"
        if path.hasSuffix(".zst") { return try ToolRun("/usr/bin/zstd", "-dcq", file).output }
        if path.hasSuffix(".gz") { return try ToolRun("/usr/bin/gzip", "-dc", file).output }
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))
    }

    /// A JSON file.
    package static func json(_ path: String) throws -> JSON {
        try JSON(try bytes(path))
    }

    /// Names of what is in a folder, sorted.
    package static func names(in folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: "\(root)/\(folder)").sorted()
    }
}

/// A folder that is gone when the test is.
package final class TemporaryFolder {
    package let path: String

    package init() throws {
        let url = FileManager.default.temporaryDirectory
            .appendingPathComponent("blockferry-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: false)
        path = url.path
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file and gives its path back.
    package func write(_ bytes: [UInt8], as name: String) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }

    /// Reads a file.
    package func read(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)")))
    }
}

/// A finished run of another program; its standard error goes to the test's.
package struct ToolRun {
    package let status: Int32
    package let output: [UInt8]

    /// Runs a program to its end, and fails unless it succeeds.
    package init(_ program: String, _ arguments: String...) throws {
        try self.init(program, arguments)
        guard status == 0 else {
            throw FixtureFailure("\(program) \(arguments) ended with \(status)")
        }
    }

    /// Runs a program to its end.
    package init(_ program: String, _ arguments: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        output = [UInt8](try pipe.fileHandleForReading.readToEnd() ?? Data())
        process.waitUntilExit()
        status = process.terminationStatus
    }

    /// The output as lines.
    package var lines: [Substring] {
        String(decoding: output, as: UTF8.self).split(separator: "\n")
    }

    /// The SHA-256 of bytes, in hexadecimal, by the system's own tool.
    package static func sha256(_ bytes: [UInt8]) throws -> String {
        let folder = try TemporaryFolder()
        let run = try ToolRun("/usr/bin/sha256sum", try folder.write(bytes, as: "bytes"))
        return String(String(decoding: run.output, as: UTF8.self).prefix(64))
    }
}

/// A JSON value.
package enum JSON: Decodable, Sendable {
    case null
    case bool(Bool)
    case number(UInt64)
    case fraction(Double)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    package init(_ bytes: [UInt8]) throws {
        self = try JSONDecoder().decode(JSON.self, from: Data(bytes))
    }

    package init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let bool = try? value.decode(Bool.self) {
            self = .bool(bool)
        } else if let number = try? value.decode(UInt64.self) {
            self = .number(number)
        } else if let fraction = try? value.decode(Double.self) {
            self = .fraction(fraction)
        } else if let string = try? value.decode(String.self) {
            self = .string(string)
        } else if let array = try? value.decode([JSON].self) {
            self = .array(array)
        } else {
            self = .object(try value.decode([String: JSON].self))
        }
    }

    package subscript(_ key: String) -> JSON {
        guard case .object(let members) = self else { return .null }
        return members[key] ?? .null
    }

    package var members: [String: JSON] {
        guard case .object(let members) = self else { return [:] }
        return members
    }

    package var elements: [JSON] {
        guard case .array(let elements) = self else { return [] }
        return elements
    }

    package var number: UInt64? {
        guard case .number(let number) = self else { return nil }
        return number
    }

    package var string: String? {
        guard case .string(let string) = self else { return nil }
        return string
    }

    package var bool: Bool? {
        guard case .bool(let bool) = self else { return nil }
        return bool
    }

    /// An array of arrays of numbers.
    package var rows: [[UInt64]] { elements.map { $0.elements.compactMap(\.number) } }
}

/// Bytes in memory that hold readers to the promise of aligned reads, and note which blocks were
/// read.
package final class CheckedBytes: ByteSource {
    package var bytes: [UInt8]
    package private(set) var blocks: Set<UInt64> = []
    package private(set) var blockReadCount = 0
    package private(set) var isAligned = true
    /// Reads that still succeed; after them every one fails.
    package var readsLeft = Int.max

    package init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    package var byteCount: UInt64 { UInt64(bytes.count) }

    package func read(
        at offset: UInt64, count: Int, _ body: (RawSpan) -> Void
    ) throws(ByteSourceError) {
        guard count >= 0, count <= bytes.count, offset <= UInt64(bytes.count - count) else {
            throw ByteSourceError(
                offset: offset, count: count, reason: .pastEnd(byteCount: byteCount))
        }
        guard readsLeft > 0 else {
            throw ByteSourceError(
                offset: offset, count: count, reason: .system(call: "pread", errno: 5))
        }
        readsLeft -= 1
        let end = offset + UInt64(count)
        if offset % 4096 != 0 || (end % 4096 != 0 && end != byteCount) { isAligned = false }
        for block in (offset / 4096)..<((end + 4095) / 4096) { blocks.insert(block) }
        blockReadCount += (count + 4095) / 4096
        bytes.withRawSpan { body($0.extracting(Int(offset)..<Int(end))) }
    }
}

/// A repeatable source of numbers (SplitMix64).
package struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) {
        state = seed
    }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
