// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Objects
package import Platform
internal import Wire

/// A file or block device, read as it is.
///
/// It must not be written while it is sent: a device in use is refused, and so is a file that a
/// program has locked for writing. Only comparing all content with the tag map of what was sent
/// shows what changed.
package final class PlainSource: Source {
    private let reader: AlignedReader
    private let file: SourceFile
    /// Held while the source is read, if it is the target of a standby on this host.
    private let claim: TargetClaim?
    package let summary: String
    package let time: UInt64
    package let identity: ObjectIdentity
    package var isOfNow: Bool { true }
    package var name: String { reader.path }
    package var volumeByteCount: UInt64 { reader.byteCount }

    /// Opens a file or device.
    ///
    /// - Parameters:
    ///   - allowsUse: read it although it is in use, because the operator said so; the summary
    ///     records it.
    ///   - isLook: the source is not sent, so another process may open it to send it.
    package init(
        path: String, allowsUse: Bool = false, isLook: Bool = false
    ) throws(SourceError) {
        var use: String?
        do {
            reader = try SourceError.reading { () throws(SystemCallError) in
                do throws(SystemCallError) {
                    let exclusive = try Self.openExclusively(path)
                    return isLook ? try AlignedReader(path: path) : exclusive
                } catch {
                    guard error.isBusy else { throw error }
                    use = "it is mounted, or another device or program holds it"
                    return try AlignedReader(path: path)
                }
            }
        } catch {
            // Direct I/O on a directory or a terminal fails with misleading errors.
            switch (try? File(path: path).status())?.kind {
            case .directory, .other: throw .invalid(path: path, reason: Self.unfit)
            case .regular, .blockDevice, nil: throw error
            }
        }
        let status = try SourceError.reading(reader.status)
        switch status.kind {
        case .regular:
            claim = try TargetClaim(reader.file)
            use = Self.use(reader.file)
        case .blockDevice:
            claim = try TargetClaim(reader.file)
        case .directory, .other:
            throw .invalid(path: path, reason: Self.unfit)
        }
        if let use, !allowsUse {
            throw .refused(
                .sourceInUse, path: path,
                reason:
                    "\(use), so that it may be written while it is sent, and the copy would be of no point in time"
            )
        }
        let opened = reader.file
        file = try SourceError.reading { () throws(SystemCallError) in try SourceFile(opened) }
        guard reader.byteCount > 0 else { throw .invalid(path: path, reason: "it is empty") }
        time = status.modifiedAt ?? Clock.wall()
        identity = ObjectIdentity(
            status.kind == .regular ? .file : .device, object: file.object, content: file.content)
        summary = use == nil ? "plain \(path)" : "plain \(path), in use"
    }

    private static let unfit = "it is neither a file nor a block device"

    /// Opens the source so that no other program can take it; an inspection holds it only for a
    /// moment.
    private static func openExclusively(_ path: String) throws(SystemCallError) -> AlignedReader {
        for _ in 0..<10 {
            do throws(SystemCallError) { return try AlignedReader(path: path, .exclusive) } catch {
                guard error.isBusy else { throw error }
            }
            Clock.sleep(milliseconds: 50)
        }
        return try AlignedReader(path: path, .exclusive)
    }

    /// What may be writing to a file, as far as that is visible; `nil` if nothing is.
    private static func use(_ file: File) -> String? {
        if !file.lockShared() { return "another program has locked it" }
        if file.isLockedForWriting { return "a program has it open for writing, and has locked it" }
        return BlockDevice.loops(of: file).contains(where: \.isHeld)
            ? "a loop device made of it is mounted, or held by another device" : nil
    }

    package func proof(since base: ObjectIdentity?) -> ChangeProof {
        .compare("nothing records what changes in a plain file or device")
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        var coalescer = ChangeCoalescer(volumeByteCount: volumeByteCount)
        var position: UInt64 = 0
        while position < volumeByteCount {
            // Holes begin and end where the file system likes, extents only on sectors.
            let data = try reader.nextData(from: position)
            let start = (data?.lowerBound ?? volumeByteCount) / 512 * 512
            let hole = data == nil ? volumeByteCount : start
            if let extent = Extent(from: position, upTo: hole),
                let done = coalescer.add(Change(extent, .unmapped))
            {
                try body(done)
            }
            guard let data else { break }
            let end = min((data.upperBound + 511) / 512 * 512, volumeByteCount)
            if let extent = Extent(from: max(start, position), upTo: end),
                let done = coalescer.add(Change(extent, .data))
            {
                try body(done)
            }
            position = end
        }
        if let last = coalescer.finish() { try body(last) }
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        try reader.read(at: extent.offset, into: memory, at: 0, count: Int(extent.length))
    }

    package func confirm() throws { try file.confirm() }
}
