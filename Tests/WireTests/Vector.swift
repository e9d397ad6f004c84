// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import TestSupport
import Wire

/// What a structure decodes to, in the form that Protocol/Vectors/README.md describes.
indirect enum Value: Equatable, CustomStringConvertible {
    case number(UInt64)
    case text([UInt8])
    case list([Value])
    case object([String: Value])

    init(_ json: JSON) throws {
        switch json {
        case .number(let number): self = .number(number)
        case .string(let text): self = .text(Array(text.utf8))
        case .array(let items): self = .list(try items.map { try Value($0) })
        case .object(let members): self = .object(try members.mapValues { try Value($0) })
        case .null, .bool, .fraction:
            throw FixtureFailure("a vector holds null, a boolean or a fraction as a field")
        }
    }

    /// Integers from 2^53 on are strings of decimal digits.
    init(integer: some BinaryInteger) {
        self = integer < 1 << 53 ? .number(UInt64(integer)) : .text(Array("\(integer)".utf8))
    }

    /// Bytes are hex.
    init(bytes: [UInt8]) { self = .text(Array(Hex.encode(bytes).utf8)) }

    init(string: String) { self = .text(Array(string.utf8)) }

    var description: String {
        switch self {
        case .number(let number): "\(number)"
        case .text(let bytes): "\"\(String(decoding: bytes, as: UTF8.self))\""
        case .list(let items): "\(items)"
        case .object(let members): "\(members.sorted { $0.key < $1.key })"
        }
    }
}

/// One file of Protocol/Vectors.
struct Vector {
    let file: String
    let json: JSON

    static let folder: String = {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/") + "/Protocol/Vectors"
    }()

    static func all() throws -> [Vector] {
        try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
            .filter { $0.hasSuffix(".json") }
            .map { try Vector($0) }
    }

    init(_ file: String) throws {
        self.file = file
        let data = try Data(contentsOf: URL(fileURLWithPath: "\(Self.folder)/\(file)"))
        json = try JSON([UInt8](data))
    }

    var structure: String { json["structure"].string ?? "" }
    var type: String { json["type"].string ?? "" }
    var text: String { json["text"].string ?? "" }
    var reason: String? { json["reason"].string }
    var context: Members { Members(json["context"]) }
    var inputs: Members { Members(json["inputs"]) }

    func fields() throws -> Value? {
        if case .null = json["fields"] { return nil }
        return try Value(json["fields"])
    }

    /// The bytes of `hex` or `hex_parts`.
    func bytes() throws -> [UInt8] {
        if let hex = json["hex"].string { return try Self.decode(hex) }
        var bytes: [UInt8] = []
        for part in json["hex_parts"].elements {
            let count = Int(part["count"].number ?? 0)
            if let hex = part["hex"].string {
                bytes += try Self.decode(hex)
            } else if let hex = part["repeat"].string {
                for _ in 0..<count { bytes += try Self.decode(hex) }
            } else if let seed = part["random_seed"].number {
                bytes += Shake128.bytes(count, of: Array("\(seed)".utf8))
            } else {
                throw FixtureFailure("\(file): an unknown part")
            }
        }
        return bytes
    }

    private static func decode(_ hex: String) throws -> [UInt8] {
        guard let bytes = Hex.decode(hex) else { throw FixtureFailure("no hex: \(hex)") }
        return bytes
    }
}

/// Values of a context or of inputs, which may be missing.
struct Members {
    let json: JSON

    init(_ json: JSON) { self.json = json }

    func integer(_ name: String) -> UInt64? {
        json[name].number ?? json[name].string.flatMap { UInt64($0) }
    }

    func bytes(_ name: String) -> [UInt8]? { json[name].string.flatMap { Hex.decode($0) } }

    func digest(_ name: String) -> SHA256Digest? { bytes(name).flatMap { SHA256Digest(bytes: $0) } }

    func key(_ name: String) -> TagKey? { bytes(name).flatMap { TagKey(bytes: $0) } }

    func has(_ name: String) -> Bool { json.members[name] != nil }
}

/// SHAKE-128 (FIPS 202), from which the vectors' random bytes come.
enum Shake128 {
    static func bytes(_ count: Int, of input: [UInt8]) -> [UInt8] {
        let rate = 168
        precondition(input.count < rate - 1, "one block of input is enough here")
        var block = input + [0x1F]
        block += [UInt8](repeating: 0, count: rate - block.count)
        block[rate - 1] |= 0x80
        var state = [UInt64](repeating: 0, count: 25)
        for index in 0..<rate {
            let shift = UInt64(index % 8 * 8)
            state[index / 8] ^= UInt64(block[index]) << shift
        }
        var output: [UInt8] = []
        while output.count < count {
            permute(&state)
            for index in 0..<min(rate, count - output.count) {
                let shift = UInt64(index % 8 * 8)
                output.append(UInt8(truncatingIfNeeded: state[index / 8] >> shift))
            }
        }
        return output
    }

    private static func permute(_ state: inout [UInt64]) {
        var register: UInt8 = 1
        for _ in 0..<24 {
            // θ
            var columns = [UInt64](repeating: 0, count: 5)
            for index in 0..<25 { columns[index % 5] ^= state[index] }
            for index in 0..<25 {
                let next = columns[(index + 1) % 5]
                state[index] ^= columns[(index + 4) % 5] ^ (next << 1 | next >> 63)
            }
            // ρ and π
            var (column, row) = (1, 0)
            var moved = state[1]
            for step in 0..<24 {
                (column, row) = (row, (2 * column + 3 * row) % 5)
                let shift = UInt64((step + 1) * (step + 2) / 2 % 64)
                let rotated = shift == 0 ? moved : moved << shift | moved >> (64 - shift)
                moved = state[column + 5 * row]
                state[column + 5 * row] = rotated
            }
            // χ
            for start in stride(from: 0, to: 25, by: 5) {
                let line = Array(state[start..<(start + 5)])
                for index in 0..<5 {
                    state[start + index] =
                        line[index] ^ (~line[(index + 1) % 5] & line[(index + 2) % 5])
                }
            }
            // ι, its constants from the shift register
            for power in 0..<7 {
                let position: UInt64 = (1 << power) - 1
                if register & 1 == 1 { state[0] ^= 1 << position }
                register = register & 0x80 != 0 ? register << 1 ^ 0x71 : register << 1
            }
        }
    }
}
