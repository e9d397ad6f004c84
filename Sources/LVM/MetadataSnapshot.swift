// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
package import Platform

/// The metadata snapshot of a thin pool, reserved by this process: the pool's mappings at one
/// moment, which do not change until it is released.
///
/// A pool has at most one, and nothing records its owner. So this process takes the lock that other
/// tools use, a guardian releases the snapshot however this process ends, and a record in our state
/// directory identifies one that a power cut left as ours.
///
/// 1. The lock is taken, and a metadata snapshot that the record proves to be ours is released. A
///    crash leaves nothing held.
/// 2. The guardian is started and reserves the snapshot. After a crash it releases what it
///    reserved; if it dies too, a metadata snapshot stays that nothing proves to be ours, and the
///    next run asks the operator.
/// 3. The record is written: block and digest of the reserved snapshot. From here on even the loss
///    of both is repaired.
/// 4. The guardian releases. A crash leaves a record that proves nothing, because the block is
///    gone.
/// 5. The record is removed.
package final class MetadataSnapshot {
    /// Number of its first block on the metadata device.
    package let block: UInt64
    private let guardian: Guardian
    private let recordPath: String

    /// The lock of thin-send-recv, which other tools use too.
    private static let lockPath = "/var/run/thin-send-recv.lock"

    private static let recordPrefix = "metadata-snapshot-"

    private static let script = """
        dmsetup message -j "$1" -m "$2" 0 reserve_metadata_snap || exit 1
        echo ready
        read -r _ <&3
        dmsetup message -j "$1" -m "$2" 0 release_metadata_snap
        """

    /// Reserves a metadata snapshot.
    ///
    /// - Parameters:
    ///   - pool: device of the pool (not of the volume that LVM shows).
    ///   - metadata: path of the pool's metadata device.
    ///   - poolName: name of the pool in errors.
    ///   - directory: directory of the record.
    ///   - seconds: how long to wait for another program's metadata snapshot.
    package init(
        ofPool pool: DeviceNumber, metadata: String, called poolName: String,
        recordIn directory: String, seconds: Int
    ) throws(LVMError) {
        let due = Clock.monotonic() + UInt64(min(max(seconds, 0), 86_400)) * nanosecondsPerSecond
        var lock: FileLock?
        while true {
            do throws(SystemCallError) { lock = try FileLock(path: Self.lockPath) } catch {
                throw .system(error)
            }
            if lock != nil { break }
            guard Clock.monotonic() < due else {
                throw .busy(
                    "another program reads the metadata of a thin pool and has had \(Self.lockPath) for "
                        + "\(seconds) s; see which with: fuser -v \(Self.lockPath)")
            }
            Clock.sleep(milliseconds: 100)
        }
        guard let uuid = BlockDevice(pool).mapperUUID else {
            throw .unexpected("device \(pool) is no device of device-mapper")
        }
        recordPath = "\(directory)/\(Self.recordPrefix)\(uuid)"
        while true {
            let status = try DeviceMapper.poolStatus(pool)
            try Self.check(status, poolName)
            guard let held = status.metadataSnapshot else { break }
            if Self.isRecorded(recordPath, uuid, held, metadata) {
                try Self.release(pool)
                continue
            }
            guard Clock.monotonic() < due else {
                throw .metadataSnapshotHeld(
                    "the thin pool \(poolName) holds a metadata snapshot (block \(held)) that this program did "
                        + "not make, and has held it for \(seconds) s; a pool has only one. See who reads the "
                        + "pool's metadata with: fuser -v \(metadata); pgrep -a 'thin_|wyng|lvmsync'",
                    pool: BlockDevice(pool).mapperName ?? "")
            }
            Clock.sleep(milliseconds: 250)
        }
        do throws(CommandError) {
            guardian = try Guardian(
                "blockferry-metadata-snapshot", script: Self.script,
                ["\(pool.major)", "\(pool.minor)"], holding: lock, seconds: nil)
        } catch {
            // A program that does not use the lock was faster.
            if let held = try DeviceMapper.poolStatus(pool).metadataSnapshot {
                throw .busy(
                    "another program has just reserved the metadata snapshot of \(poolName) (block \(held)); "
                        + "try again")
            }
            throw .command(error)
        }
        do {
            // The kernel does not check its last write: that of the superblock, which names the
            // block.
            block = try Self.heldRoot(in: metadata)
            guard block != 0 else {
                throw LVMError.unexpected(
                    "\(metadata) names no metadata snapshot after it was reserved")
            }
            let digest = try Self.digest(of: block, in: metadata)
            try Directory.replace(recordPath, with: Array("\(uuid) \(block) \(digest)\n".utf8))
        } catch let error as LVMError {
            throw error
        } catch let error as SystemCallError {
            throw .system(error)
        } catch {
            throw .unexpected("\(metadata): \(error)")
        }
    }

    /// Releases it and reports errors. Without this call the guardian releases it, but its errors
    /// are lost.
    package func release() throws(LVMError) {
        do throws(CommandError) { try guardian.finish(seconds: nil) } catch {
            throw .command(error)
        }
        try? Directory.remove(recordPath)
    }

    /// Releases the metadata snapshots that records prove to be ours, and returns the names of
    /// their pools.
    ///
    /// - Parameter isWanted: `false` only looks for them.
    package static func releaseLeftovers(
        recordIn directory: String, isWanted: Bool
    ) throws(LVMError) -> [String] {
        var found: [String] = []
        let names: [String]
        let lock: FileLock?
        do throws(SystemCallError) {
            names = try Directory.names(in: directory).filter { $0.hasPrefix(recordPrefix) }
            if names.isEmpty { return [] }
            lock = try FileLock(path: lockPath)
        } catch {
            throw .system(error)
        }
        // While another process reads a pool's metadata, nothing is left over.
        guard let lock else { return [] }
        defer { withExtendedLifetime(lock) {} }
        for name in names {
            let uuid = String(name.dropFirst(recordPrefix.count))
            guard let pool = try DeviceMapper.device(uuid: uuid) else { continue }
            let held = try DeviceMapper.poolStatus(pool.number).metadataSnapshot
            let metadata = try DeviceMapper.poolTable(pool.number).metadata.path()
            guard let held, isRecorded("\(directory)/\(name)", uuid, held, metadata) else {
                continue
            }
            if isWanted { try release(pool.number) }
            found.append(pool.name)
        }
        return found
    }

    private static func check(
        _ status: DeviceMapper.PoolStatus, _ name: String
    ) throws(LVMError) {
        guard !status.needsCheck else {
            throw .refused(
                "the thin pool \(name) needs a check: it has lost a transaction, and what it says of its "
                    + "snapshots is not to be trusted")
        }
        guard status.mode == "rw" || status.mode == "out_of_data_space" else {
            throw .refused(
                "the thin pool \(name) is in mode '\(status.mode)': it takes no metadata snapshot")
        }
    }

    private static func release(_ pool: DeviceNumber) throws(LVMError) {
        do throws(CommandError) {
            try Command.change(
                "dmsetup",
                [
                    "message", "-j", "\(pool.major)", "-m", "\(pool.minor)", "0",
                    "release_metadata_snap",
                ])
        } catch {
            throw .command(error)
        }
    }

    private static func isRecorded(
        _ path: String, _ uuid: String, _ block: UInt64, _ metadata: String
    ) -> Bool {
        guard let file = try? File(path: path), let bytes = try? file.readBytes(at: 0, count: 4096),
            let digest = try? digest(of: block, in: metadata)
        else { return false }
        return String(decoding: bytes, as: UTF8.self) == "\(uuid) \(block) \(digest)\n"
    }

    private static func digest(
        of block: UInt64, in metadata: String
    ) throws -> SHA256Digest {
        var digest = SHA256Digest.zero
        try FileBytes(path: metadata).read(at: block * 4096, count: 4096) { bytes in
            digest = SHA256Digest.of(bytes)
        }
        return digest
    }

    /// The block of the metadata snapshot in the superblock on the disk: `held_root`.
    private static func heldRoot(in metadata: String) throws -> UInt64 {
        var root: UInt64 = 0
        try FileBytes(path: metadata).read(at: 0, count: 4096) { bytes in
            root = (try? bytes.littleEndian(at: 56)) ?? 0
        }
        return root
    }
}
