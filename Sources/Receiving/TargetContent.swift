// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Platform
internal import Signatures
internal import Staging
internal import Wire

/// Foreign content on a target, as far as a quick look shows.
enum TargetContent {
    private static let edge: UInt64 = 1 << 20
    private static let places: UInt64 = 64

    /// Describes the content; `nil` if the target looks unused: no signature, and zeros at the
    /// start, at the end and at 64 places in between.
    static func describe(_ object: TargetObject) throws(TargetError) -> String? {
        do {
            let found = try Signatures.found(on: try File(path: object.path))
            guard found.isEmpty else { return found.joined(separator: " and ") }
        } catch { throw .failed(error) }
        for range in try ranges(of: object) where try !isZero(object, range) {
            return "data, at bytes \(range.lowerBound) to \(range.upperBound)"
        }
        return nil
    }

    /// The ranges to read; those in holes of a file are skipped.
    private static func ranges(of object: TargetObject) throws(TargetError) -> [Range<UInt64>] {
        let size = object.byteCount
        let unit = UInt64(AlignedBuffer.alignment)
        var starts = [0, size > edge ? (size - edge) / unit * unit : 0]
        var ranges = starts.map { $0..<min($0 + edge, size) }
        starts = (1..<places).map { size / places * $0 / unit * unit }
        var position: UInt64 = 0
        while object.kind == .file, starts.count < 2 * Int(places) {
            let data: Range<UInt64>?
            do { data = try object.file.nextData(from: position, size: size) } catch {
                throw .failed(error)
            }
            guard let data else { break }
            starts.append(data.lowerBound / unit * unit)
            position = data.upperBound
        }
        ranges += starts.map { $0..<min($0 + 64 << 10, size) }
        return ranges.filter { !$0.isEmpty }
    }

    private static func isZero(
        _ object: TargetObject, _ range: Range<UInt64>
    ) throws(TargetError) -> Bool {
        let memory = AlignedBuffer(byteCount: Int(edge))
        let wanted = Int(range.upperBound - range.lowerBound)
        let unit = AlignedBuffer.alignment
        let got = try object.read(
            at: range.lowerBound, into: memory, count: (wanted + unit - 1) / unit * unit)
        return memory.withBytes(count: min(got, wanted)) { $0.isAllZero }
    }
}
