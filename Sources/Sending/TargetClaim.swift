// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Objects
internal import Platform
internal import Staging
internal import Wire

/// The right to read a file or device that is the target of a standby on this host. It holds the
/// lock of the target's volume for its lifetime, so nothing is applied to the target meanwhile.
final class TargetClaim {
    private let lock: FileLock

    /// State directory of this host's standby.
    private static var standbyState: String {
        Process.environment("BLOCKFERRYD_STATE") ?? "/var/lib/blockferryd"
    }

    /// Claims an open file or device; `nil` if it is not a target.
    ///
    /// - Throws: `source-is-target` for a target that is being written or does not hold a committed
    ///   generation.
    init?(_ file: File) throws(SourceError) {
        let status = try SourceError.reading(file.status)
        let stack = try? StorageStack(file)
        let marked = (TargetMark(on: file) ?? stack.flatMap { TargetMark.below($0).first })?.state
        let directories = [Self.standbyState] + (marked == Self.standbyState ? [] : [marked])
        for case let directory? in directories {
            guard let target = try Self.find(status, file, directory, isMarked: directory == marked)
            else { continue }
            lock = try Self.lock(target, directory, file.path)
            return
        }
        return nil
    }

    /// Finds the target that a file or device is, is part of, or contains.
    private static func find(
        _ status: FileStatus, _ file: File, _ directory: String, isMarked: Bool
    ) throws(SourceError) -> RegisteredTarget? {
        let targets: [RegisteredTarget]
        do { targets = try RegisteredTarget.all(in: directory) } catch {
            // The host has no standby, or this user may not look at it.
            guard isMarked else { return nil }
            throw .refused(
                .sourceIsTarget, path: file.path,
                reason:
                    "it has the mark of a target of the standby in \(directory), which cannot be asked what the target "
                    + "holds (\(error)). If that standby is gone, remove the mark: setfattr -x user.blockferry.target \(file.path)"
            )
        }
        let chain = chain(status)
        let identity = identity(status, file)
        return targets.first { target in
            if let other = try? File(path: target.path).status(),
                chain.contains(other.identity) || Self.chain(other).contains(status.identity)
            {
                return true
            }
            // The target may have another path by now. A copy that keeps attributes has the mark
            // but another inode.
            guard let identity, let registered = ObjectIdentity(target.identity),
                registered.object["mark"] == identity.object["mark"]
            else { return false }
            return registered.relation(to: identity) == .same
        }
    }

    /// `nil` if the facts are too few to find a target by.
    private static func identity(_ status: FileStatus, _ file: File) -> ObjectIdentity? {
        if let device = status.device {
            return ObjectIdentity(.device, object: BlockDevice(device).objectFacts)
        }
        guard var facts = try? file.objectFacts() else { return nil }
        facts["mark"] = TargetMark(on: file)?.random
        guard facts["mark"] != nil || facts["fs-uuid"] != nil else { return nil }
        return ObjectIdentity(.file, object: facts)
    }

    /// The object and everything it is part of or made of: the disk of a partition, the file of a
    /// loop device.
    private static func chain(_ status: FileStatus) -> Set<String> {
        var found: Set = [status.identity]
        guard let number = status.device else { return found }
        let device = BlockDevice(number)
        if let disk = device.disk { found.insert("device:\(disk.number)") }
        if let file = try? backing(status)?.status() { found.insert(file.identity) }
        return found
    }

    /// The file behind a loop device, or behind the loop device that the object is part of.
    private static func backing(_ status: FileStatus) -> File? {
        guard let device = status.device.map({ BlockDevice($0) }) else { return nil }
        return (device.disk ?? device).backingFile.flatMap { try? File(path: $0) }
    }

    private static func lock(
        _ target: RegisteredTarget, _ directory: String, _ path: String
    ) throws(SourceError) -> FileLock {
        let what = "it is the target of volume \(target.volume) of the standby in \(directory)"
        func no(_ reason: String) -> SourceError {
            .refused(.sourceIsTarget, path: path, reason: "\(what), \(reason)")
        }
        let held: FileLock?
        do { held = try FileLock(existing: "\(directory)/locks/\(target.volume)") } catch {
            guard error.isNotFound else { throw .unreadable(error) }
            throw no("to which nothing was sent yet")
        }
        guard let held else {
            throw no(
                "to which a generation is being brought now; send again when that is done, or send a kept generation"
            )
        }
        let state: VolumeState?
        do {
            state = try RegisteredTarget.all(in: directory).first {
                $0.volume == target.volume
            }?.state
        } catch {
            throw no("which cannot be asked what it holds: \(error)")
        }
        switch state {
        case .consistent, .staging, .promoted: return held
        // The target was removed a moment ago.
        case nil: return held
        case .empty, .initialising, .prepared, .applying, .diverged, .suspect:
            throw no(
                "which is \(state.map { "\($0)" } ?? ""): what it holds is no generation that is proven"
            )
        }
    }
}
