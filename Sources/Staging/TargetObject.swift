// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Objects
package import Platform
package import Wire

/// A target that is open for reading, to look at what it is and what it holds. Others may write it meanwhile.
package final class TargetObject {
    /// The path it was opened by.
    package let path: String
    /// What it is.
    package let kind: TargetKind
    /// Which one it is. Without facts nothing tells it from others.
    package let identity: ObjectIdentity
    /// Size in bytes.
    package let byteCount: UInt64
    /// Of a file that was registered: whose it is.
    package let mark: TargetMark?
    /// The number of a device.
    package let device: BlockDevice?
    package let file: File

    /// Looks at what is at a path.
    package init(path: String) throws(TargetError) {
        self.path = path
        do { file = try File(openingDirect: path, []) } catch {
            throw error.code == ENOENT ? .missing(path) : .failed(error)
        }
        let status = try Self.status(of: file)
        kind = status.kind == .blockDevice ? .blockDevice : .file
        byteCount = status.byteCount
        device = status.device.map { BlockDevice($0) }
        mark = device == nil ? TargetMark(on: file) : nil
        do { identity = try Self.identity(of: file, status) } catch { throw .failed(error) }
    }

    static func status(of file: File) throws(TargetError) -> FileStatus {
        let status: FileStatus
        do { status = try file.status() } catch { throw .failed(error) }
        guard status.kind == .blockDevice || status.kind == .regular else {
            throw .wrongKind(file.path)
        }
        return status
    }

    /// What names an open target.
    ///
    /// Of a file its inode, with its mark; without a mark, its file system too, which a mark does not need: the file
    /// may be moved to another place, and the file system may get another number. Of a device what names that
    /// (`BlockDevice.objectFacts`), and of a thin volume its id in the pool.
    static func identity(
        of file: File, _ status: FileStatus
    ) throws(SystemCallError) -> ObjectIdentity {
        if let number = status.device {
            let device = BlockDevice(number)
            var facts = device.objectFacts
            facts["thin"] = device.thinDevice
            return ObjectIdentity(.device, object: facts)
        }
        var facts = try file.objectFacts()
        if let mark = TargetMark(on: file) {
            facts["mark"] = mark.random
            facts["fs-uuid"] = nil
            facts["fsid"] = nil
        }
        return ObjectIdentity(.file, object: facts)
    }

    /// Refuses what is not the registered object.
    ///
    /// - Parameter registered: the text in the catalog. One of a former version says nothing.
    package func compare(registered: String) throws(TargetError) {
        try Self.compare(identity, registered: registered, path)
    }

    static func compare(
        _ found: ObjectIdentity, registered text: String, _ path: String
    ) throws(TargetError) {
        guard let registered = ObjectIdentity(text) else { return }
        var differing: [String] = []
        switch registered.relation(to: found) {
        case .different(let names): differing = names
        // It had a name, and has none of that sort any more.
        case .unknown: differing = registered.object.keys.sorted()
        case .same: break
        }
        // A copy in its place has everything but the mark, where inodes are used again.
        if registered.object["mark"] != nil, found.object["mark"] == nil {
            differing.append("mark")
        }
        // A disk is not its partition, and no device of one kind becomes one of another.
        if !registered.object.isEmpty {
            for name in ["dm", "partition"]
            where (registered.object[name] == nil) != (found.object[name] == nil) {
                differing.append(name)
            }
        }
        guard !differing.isEmpty else { return }
        throw .foreign(
            path, registered: registered.words(differing), found: found.words(differing))
    }

    /// Why it has not the size for a generation of so many bytes; nil if it has. A device may be larger. A file is as large as
    /// the generation, since whoever uses it sees what is behind that, too.
    package func problem(holding volumeByteCount: UInt64) -> String? {
        guard byteCount < volumeByteCount || kind == .file && byteCount > volumeByteCount else {
            return nil
        }
        return "\(path) has \(byteCount) bytes, the generation on it \(volumeByteCount)"
    }

    /// Refuses a device that is suspended: whoever reads it waits for whoever has done that, for ever if he is gone.
    ///
    /// - Parameter patience: how long it may be so, in milliseconds: taking a snapshot suspends for a moment.
    package func checkResumed(patience: UInt64) throws(TargetError) {
        guard let device, device.isSuspended else { return }
        let due = Clock.monotonic() + patience * (nanosecondsPerSecond / 1000)
        while device.isSuspended {
            guard Clock.monotonic() < due else {
                throw .suspended(path, device: device.mapperName ?? path)
            }
            Clock.sleep(milliseconds: 50)
        }
    }

    /// Fills part of `memory` from `offset`; fewer bytes at the end.
    package func read(
        at offset: UInt64, into memory: AlignedBuffer, count: Int
    ) throws(TargetError) -> Int {
        do { return try file.read(at: offset, into: memory, count: count) } catch {
            throw .failed(error)
        }
    }
}

extension ObjectIdentity {
    /// Facts for people.
    fileprivate func words(_ names: [String]) -> String {
        names.map { name in
            if name == "kind" { return "a \(kind.rawValue)" }
            guard let value = object[name] else { return "no \(Self.word(name))" }
            return "\(Self.word(name)) \(value)"
        }.joined(separator: ", ")
    }

    private static func word(_ name: String) -> String {
        switch name {
        case "dm": "device-mapper uuid"
        case "thin": "thin device"
        case "fs-uuid": "file system"
        default: name
        }
    }
}
