// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Objects
package import Platform
package import Wire

/// A target that is open for reading, to inspect its identity and content. Other programs may write
/// it meanwhile.
package final class TargetObject {
    /// The path that it was opened with.
    package let path: String
    package let kind: TargetKind
    /// Facts that identify it. Without facts it cannot be told from others.
    package let identity: ObjectIdentity
    /// Size in bytes.
    package let byteCount: UInt64
    /// Owner of a registered file.
    package let mark: TargetMark?
    /// The device number; `nil` for a file.
    package let device: BlockDevice?
    package let file: File

    /// Opens the object at a path and reads its facts.
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

    /// Facts that identify an open target.
    ///
    /// For a file: its inode and its mark, or without a mark its inode and file system. With a mark
    /// the file system does not matter: the file may be moved, and a file system's number may
    /// change. For a device: `BlockDevice.objectFacts`, and for a thin volume its id in the pool.
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

    /// Refuses any object but the registered one.
    ///
    /// - Parameter registered: the text in the catalog; one of an earlier version matches any
    ///   object.
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
        // It had a name and no longer has any fact of that kind.
        case .unknown: differing = registered.object.keys.sorted()
        case .same: break
        }
        // If inodes are reused, a copy in its place matches in everything but the mark.
        if registered.object["mark"] != nil, found.object["mark"] == nil {
            differing.append("mark")
        }
        // A disk is not its partition, and a device cannot change its kind.
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

    /// Why its size does not suit a generation of this size; `nil` if it does. A device may be
    /// larger. A file must have exactly that size, because its users also see what lies past the
    /// generation's end.
    package func problem(holding volumeByteCount: UInt64) -> String? {
        guard byteCount < volumeByteCount || kind == .file && byteCount > volumeByteCount else {
            return nil
        }
        return "\(path) has \(byteCount) bytes, the generation on it \(volumeByteCount)"
    }

    /// Refuses a suspended device: its readers wait until it is resumed, which may be never.
    ///
    /// - Parameter patience: how long it may be suspended, in milliseconds, because taking a
    ///   snapshot suspends it briefly.
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

    /// Fills part of `memory` from `offset`; returns fewer bytes at the end.
    package func read(
        at offset: UInt64, into memory: AlignedBuffer, count: Int
    ) throws(TargetError) -> Int {
        do { return try file.read(at: offset, into: memory, count: count) } catch {
            throw .failed(error)
        }
    }
}

extension ObjectIdentity {
    /// The named facts as text.
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
