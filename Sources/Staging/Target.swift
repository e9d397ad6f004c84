// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Glibc
package import Objects
package import Platform
package import Wire

/// The device or file that holds the standby's copy.
///
/// It uses direct I/O if the file system supports that, so errors surface on the write and no page
/// cache of another program is in between. Ranges need not be aligned: ragged edges are read,
/// changed and written back. After the first failed write or flush the target refuses everything,
/// because the kernel may report an error only once.
package final class Target {
    /// The path that it was opened with.
    package let path: String
    package let kind: TargetKind
    /// Facts that identify it.
    package let identity: ObjectIdentity
    /// Current size in bytes.
    package private(set) var byteCount: UInt64
    private let file: File
    private let unit: Int
    private let edge: AlignedBuffer
    private let zeroing: Zeroing
    private var failure: SystemCallError?
    /// The ranges that `reserve` has allocated; empty after the first write.
    private var reserved: [Range<UInt64>] = []
    /// Largest number of ranges to remember; any others stay reserved after a refusal.
    private static let reservedLimit = 4096
    /// Buffer for content that does not start on a page boundary, as in the staging log.
    private var bounce: AlignedBuffer?

    /// Opens a target exclusively for writing.
    ///
    /// - Parameter registered: the identity that it must have; `nil` skips the check.
    package init(path: String, registered: String?) throws(TargetError) {
        let found = try TargetObject(path: path)
        if let registered { try found.compare(registered: registered) }
        if found.kind == .file, try Self.hasWriter(path) { throw .inUse(path) }
        var options: File.Options = .write
        if found.kind == .blockDevice { options.insert(.exclusive) }
        do throws(SystemCallError) {
            file = try File(openingDirect: path, options)
            let status = try file.status()
            if status.isReadOnlyDevice { throw SystemCallError("open", path, code: EROFS) }
            unit = max(status.logicalBlockByteCount, 512)
            byteCount = status.byteCount
            identity = try TargetObject.identity(of: file, status)
            zeroing = Zeroing(file, status)
        } catch {
            switch error.code {
            case EBUSY: throw .inUse(path)
            case EROFS, EPERM: throw .readOnly(path)
            case ENOENT: throw .missing(path)
            default: throw .failed(error)
            }
        }
        self.path = path
        kind = found.kind
        edge = AlignedBuffer(byteCount: max(unit, AlignedBuffer.alignment))
        // The path may lead elsewhere by now.
        try TargetObject.compare(identity, registered: found.identity.description, path)
        if kind == .file, isHeldElsewhere() { throw .inUse(path) }
        // A virtual machine opens its disk without O_EXCL.
        if let device = found.device, device.isOpenElsewhere(patience: Self.openPatience) {
            throw .inUse(path)
        }
    }

    /// Refuses a target that its path no longer leads to: the writes may be in a file without a
    /// name.
    package func checkPlace() throws(TargetError) {
        do throws(SystemCallError) {
            let there = try File(path: path).status().identity
            guard try there == file.status().identity else {
                throw SystemCallError("open", path, code: ESTALE)
            }
        } catch {
            switch error.code {
            case ENOENT: throw .missing(path)
            case ESTALE: throw .foreign(path, registered: "what was there", found: "been replaced")
            default: throw .failed(error)
            }
        }
    }

    /// How long other programs may keep a device open, in milliseconds.
    private static let openPatience: UInt64 = 5000

    /// Whether another process has a file open for writing, for example an emulator without locks.
    private static func hasWriter(_ path: String) throws(TargetError) -> Bool {
        do { return try File(path: path).hasWriter } catch { throw .failed(error) }
    }

    /// Whether a file is attached to a loop device, or locked by another process.
    private func isHeldElsewhere() -> Bool {
        !file.takeForWriting() || !BlockDevice.loops(of: file).isEmpty
    }

    /// Ensures that `needed` bytes fit: extends a file, refuses a device that is too small.
    package func prepare(for needed: UInt64) throws(TargetError) {
        if byteCount >= needed { return }
        guard kind == .file else {
            throw .tooSmall(path, byteCount: byteCount, needed: needed)
        }
        try resize(to: needed)
    }

    /// Reads the current size of a device that was extended while open.
    package func measure() throws(TargetError) {
        do { byteCount = try file.status().byteCount } catch { throw .failed(error) }
    }

    /// The device number; `nil` for a file.
    package var device: BlockDevice? {
        (try? file.status().device).map { BlockDevice($0) }
    }

    /// Ensures that content can be written to a range later: allocates storage for the holes of a
    /// file, without changing its content or size. If the file system cannot reserve, or copies on
    /// write, this proves nothing.
    package func reserve(_ offset: UInt64, count: UInt64) throws(SystemCallError) {
        guard kind == .file, let end = Extent(offset: offset, length: count)?.end else { return }
        var position = offset
        while position < end {
            let data = try file.nextData(from: position, size: byteCount)
            let holeEnd = min(data?.lowerBound ?? end, end)
            if position < holeEnd {
                let before = try file.status().allocatedByteCount
                // A range that does not fit may have been allocated in part.
                defer {
                    let after = try? file.status().allocatedByteCount
                    if after ?? before > before { note(position..<holeEnd) }
                }
                let isReserved = try file.reserve(from: position, count: holeEnd - position)
                guard isReserved else { return }
            }
            guard let data, data.lowerBound < end else { break }
            position = max(holeEnd, data.upperBound)
        }
    }

    /// Bytes without storage in a file of this size.
    package func unallocatedByteCount(of size: UInt64) throws(TargetError) -> UInt64 {
        do { return size - min(try file.status().allocatedByteCount, size) } catch {
            throw .failed(error)
        }
    }

    /// Releases what `reserve` has allocated, unless something was written since.
    package func giveBackReserved() {
        for range in reserved {
            _ = try? file.punchHole(range.lowerBound, count: range.upperBound - range.lowerBound)
        }
        reserved = []
    }

    private func note(_ range: Range<UInt64>) {
        if let last = reserved.last, last.upperBound == range.lowerBound {
            reserved[reserved.count - 1] = last.lowerBound..<range.upperBound
        } else if reserved.count < Self.reservedLimit {
            reserved.append(range)
        }
    }

    /// Cuts a file to the size of the volume just written to it, before the flush; a device keeps
    /// its size.
    ///
    /// A crash leaves either size. In both cases the generation is written again, and it has no
    /// content past this size.
    package func trim(to volumeSize: UInt64) throws(TargetError) {
        if kind == .file, byteCount > volumeSize { try resize(to: volumeSize) }
    }

    private func resize(to size: UInt64) throws(TargetError) {
        try guarded { () throws(SystemCallError) in try file.truncate(to: size) }
        byteCount = size
    }

    /// Writes content at an offset of the target.
    package func write(
        _ memory: AlignedBuffer, from position: Int, count: Int, at offset: UInt64
    ) throws(TargetError) {
        reserved = []
        try guarded { () throws(SystemCallError) in
            let parts = split(offset, UInt64(count))
            var from = position
            try zeroing.fill(endsOf: offset..<offset + UInt64(count))
            if let head = parts.head {
                try patch(head) { edge, place, count in
                    edge.copy(from: memory, at: from, to: place, count: count)
                }
                from += head.count
            }
            if !parts.middle.isEmpty {
                let middle = parts.middle.count
                if from % AlignedBuffer.alignment == 0 {
                    try file.write(memory, from: from, count: middle, at: parts.middle.lowerBound)
                } else {
                    try writeShifted(memory, from: from, parts.middle)
                }
                from += middle
            }
            if let tail = parts.tail {
                try patch(tail) { edge, place, count in
                    edge.copy(from: memory, at: from, to: place, count: count)
                }
            }
        }
    }

    /// Makes a range read as zeros.
    ///
    /// - Parameter isWanted: polled during long operations; `false` leaves the rest of the range
    ///   unchanged.
    package func zero(
        _ offset: UInt64, count: UInt64, while isWanted: () -> Bool = { true }
    ) throws(TargetError) {
        try guarded { () throws(SystemCallError) in
            let parts = split(offset, count)
            // The units that contain the ends are written only in part.
            if parts.head != nil || parts.tail != nil {
                try zeroing.fill(endsOf: offset..<offset + count)
            }
            for part in [parts.head, parts.tail].compactMap({ $0 }) {
                try patch(part) { edge, place, count in edge.zero(at: place, count: count) }
            }
            guard !parts.middle.isEmpty else { return }
            try zeroing.zero(parts.middle, while: isWanted)
        }
    }

    /// Reads a range whose offset and count are multiples of a page, or which ends at the target's
    /// end.
    package func read(
        at offset: UInt64, into memory: AlignedBuffer, count: Int
    ) throws(TargetError) -> Int {
        do { return try file.read(at: offset, into: memory, count: count) } catch {
            throw .failed(error)
        }
    }

    /// Flushes everything to stable storage.
    package func sync() throws(TargetError) {
        try guarded { () throws(SystemCallError) in
            // Writing whole units may have rounded the file's size up.
            if kind == .file, try file.status().byteCount > byteCount {
                try file.truncate(to: byteCount)
            }
            try file.sync()
        }
    }

    private func guarded(_ body: () throws(SystemCallError) -> Void) throws(TargetError) {
        if let failure { throw .failed(failure) }
        do { try body() } catch {
            failure = error
            throw .failed(error)
        }
    }
}

// MARK: - Alignment

extension Target {
    /// A piece inside one unit.
    private struct Ragged {
        var offset: UInt64
        var count: Int
    }

    /// A range, split into whole units and ragged ends.
    private struct Parts {
        var head: Ragged?
        var middle: Range<UInt64>
        var tail: Ragged?
    }

    private func split(_ offset: UInt64, _ count: UInt64) -> Parts {
        let unit = UInt64(unit)
        let end = offset + count
        let firstWhole = (offset + unit - 1) / unit * unit
        let lastWhole = end / unit * unit
        if firstWhole > lastWhole {
            return Parts(
                head: Ragged(offset: offset, count: Int(count)), middle: offset..<offset, tail: nil)
        }
        return Parts(
            head: offset < firstWhole
                ? Ragged(offset: offset, count: Int(firstWhole - offset)) : nil,
            middle: firstWhole..<lastWhole,
            tail: lastWhole < end
                ? Ragged(offset: lastWhole, count: Int(end - lastWhole)) : nil)
    }

    private func patch(
        _ part: Ragged, _ change: (AlignedBuffer, Int, Int) -> Void
    ) throws(SystemCallError) {
        let start = part.offset / UInt64(unit) * UInt64(unit)
        let got = try file.read(at: start, into: edge, count: unit)
        if got < unit { edge.zero(at: got, count: unit - got) }
        change(edge, Int(part.offset - start), part.count)
        try file.write(edge, count: unit, at: start)
    }

    private func writeShifted(
        _ memory: AlignedBuffer, from position: Int, _ range: Range<UInt64>
    ) throws(SystemCallError) {
        let bounce = self.bounce ?? AlignedBuffer(byteCount: Limits.recordContent)
        self.bounce = bounce
        var done = 0
        while done < range.count {
            let count = min(range.count - done, bounce.byteCount)
            bounce.copy(from: memory, at: position + done, to: 0, count: count)
            try file.write(bounce, count: count, at: range.lowerBound + UInt64(done))
            done += count
        }
    }
}
