// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import LVM
package import Platform
internal import Wire

/// Serves one request of the daemon as root (Protocol/Helper.md).
package struct HelperServer {
    /// Time limit for the arrival of the request, in seconds.
    private static let patience = 10
    private let file: String
    private let user: UInt32
    private let directory: String
    private let log: (String) -> Void

    /// - Parameters:
    ///   - file: lists the volumes.
    ///   - user: the user that may send requests, beside root.
    ///   - directory: keeps a record while a pool's metadata is read.
    package init(
        volumes file: String, user: UInt32, recordIn directory: String,
        log: @escaping (String) -> Void
    ) {
        self.file = file
        self.user = user
        self.directory = directory
        self.log = log
    }

    /// Reads the request, carries it out if that is allowed, and answers.
    package func serve(_ channel: borrowing Channel) {
        guard let peer = channel.peerUser, peer == 0 || peer == user else {
            return log("a process of another user has connected, and was not heard")
        }
        guard channel.wait(seconds: Self.patience),
            let message = channel.receive(HelperRequest.limit + 1)
        else { return }
        let bytes = message.bytes
        var lock: FileLock?
        if let passed = message.takePassed() { lock = FileLock(sharing: passed) }
        let answer = answer(to: bytes, holding: lock)
        switch answer {
        case .refused(let reason, _): log("refused: \(reason)")
        case .failed(let reason, _): log("failed: \(reason)")
        default: break
        }
        channel.send(answer.encoded())
    }

    private func answer(to bytes: [UInt8], holding lock: FileLock?) -> HelperAnswer {
        let request: HelperRequest
        do {
            guard bytes.count <= HelperRequest.limit else {
                return .refused("the request is too long", type: 0)
            }
            request = try bytes.withRawSpan { (span) throws(WireError) in
                try HelperRequest(decoding: span)
            }
        } catch { return .refused("\(error)", type: 0) }
        let type = request.order.type
        do {
            let volumes = LocalVolumes(recordIn: directory, configured: try configured())
            return try answer(to: request, volumes, holding: lock)
        } catch let error as LVMError {
            switch error {
            case .refused, .notFound, .busy, .metadataSnapshotHeld:
                return .refused("\(error)", type: type)
            case .command, .unexpected, .system: return .failed("\(error)", type: type)
            }
        } catch { return .failed("\(error)", type: type) }
    }

    private func answer(
        to request: HelperRequest, _ volumes: LocalVolumes, holding lock: FileLock?
    ) throws -> HelperAnswer {
        let volume = request.volume
        func held() throws(LVMError) -> FileLock {
            guard let lock else { throw .refused("the volume's lock did not come with it") }
            log("\(Self.words(request.order)) \(volume)")
            return lock
        }
        switch request.order {
        case .look:
            guard let found = MapperAnswer(of: try volumes.device(of: volume)) else {
                throw LVMError.unexpected("device-mapper does not answer")
            }
            return .look(
                thinDevice: found.thinDevice, provesDiscards: found.provesDiscards,
                openCount: found.openCount)
        case .room: return .room(try volumes.room(of: volume))
        case .kept(let owner, let after):
            let all = try volumes.kept(of: volume, by: owner)
                .filter { $0.snapshotUUID > after }
                .sorted { $0.snapshotUUID < $1.snapshotUUID }
            return .kept(
                Array(all.prefix(HelperAnswer.snapshotLimit)),
                hasMore: all.count > HelperAnswer.snapshotLimit)
        case .keep(let owner, let mark):
            try volumes.keep(mark, of: volume, by: owner, holding: held())
        case .release(let owner, let uuid):
            try volumes.release(uuid, of: volume, by: owner, holding: held())
        case .grow(let byteCount): try volumes.grow(volume, to: byteCount, holding: held())
        case .activate: try volumes.activate(volume, holding: held())
        }
        return .done(type: request.order.type)
    }

    private static func words(_ order: HelperRequest.Order) -> String {
        switch order {
        case .look, .room, .kept: "looking at"
        case .keep(let owner, let mark):
            "keeping generation \(mark.number) of volume \(owner.volume), which is"
        case .release(let owner, let uuid):
            "removing the kept snapshot \(uuid) of volume \(owner.volume), which is"
        case .grow(let byteCount): "growing to \(byteCount) bytes"
        case .activate: "activating"
        }
    }

    /// The volumes that an administrator has listed.
    private func configured() throws(LVMError) -> ConfiguredVolumes {
        let bytes: [UInt8]
        let mode: UInt32
        do throws(SystemCallError) {
            // The file must belong to root and not be a link.
            let file = try File(path: file, .noFollow)
            mode = try file.status().mode
            bytes = try file.readBytes(at: 0, count: ConfiguredVolumes.limit + 1)
        } catch { throw .refused("\(error)") }
        guard mode & 0o022 == 0 else {
            throw .refused("\(file) can be written by others than root, and is not read")
        }
        guard bytes.count <= ConfiguredVolumes.limit,
            let text = String(validating: bytes, as: UTF8.self),
            let found = ConfiguredVolumes(text)
        else { throw .refused("\(file) has a line that is no VG/LV, or is too long") }
        return found
    }
}
