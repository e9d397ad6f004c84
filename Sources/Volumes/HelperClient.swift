// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform
package import Wire

/// Why the helper did not fulfil a request.
package enum HelperError: Error, CustomStringConvertible {
    /// The helper is missing or does not answer.
    case absent(SystemCallError)
    /// The answer is malformed or from another program.
    case notUnderstood(String)
    /// The helper refused, or LVM failed.
    case refused(String)

    package var description: String {
        switch self {
        case .absent(let error): "the helper for logical volumes cannot be asked: \(error)"
        case .notUnderstood(let reason):
            "the helper for logical volumes gives no answer that can be understood: \(reason)"
        case .refused(let reason): "the helper for logical volumes: \(reason)"
        }
    }
}

/// Sends requests to `blockferryd-lvm` (Protocol/Helper.md).
package struct HelperClient: StandbyVolumes {
    package static let defaultPath = "/run/blockferryd-lvm/socket"
    /// Time limit for requests that change nothing, in seconds.
    private static let patience = 150
    private let path: String

    package init(path: String = HelperClient.defaultPath) { self.path = path }

    /// Device-mapper's facts about a logical volume; `nil` if it cannot be queried.
    package func look(at device: BlockDevice) -> MapperAnswer? {
        guard let volume = device.logicalVolume,
            case .look(let thinDevice, let provesDiscards, let openCount) =
                try? ask(volume, .look, holding: nil)
        else { return nil }
        return MapperAnswer(
            thinDevice: thinDevice, provesDiscards: provesDiscards, openCount: openCount)
    }

    package func room(of volume: LogicalVolumeID) throws -> ThinRoom {
        guard case .room(let room) = try ask(volume, .room, holding: nil) else {
            throw HelperError.notUnderstood("another request's")
        }
        return room
    }

    package func kept(
        of volume: LogicalVolumeID, by owner: KeptOwner
    ) throws -> [KeptGeneration] {
        var all: [KeptGeneration] = []
        while true {
            let after = all.last?.snapshotUUID ?? ""
            let answer = try ask(volume, .kept(owner, after: after), holding: nil)
            guard case .kept(let found, let hasMore) = answer,
                found.first.map({ $0.snapshotUUID > after }) ?? true
            else { throw HelperError.notUnderstood("another request's") }
            all += found
            if !hasMore { return all }
        }
    }

    package func keep(
        _ mark: GenerationMark, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock
    ) throws {
        try change(volume, .keep(owner, mark), holding: lock)
    }

    package func release(
        _ snapshotUUID: String, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock
    ) throws {
        try change(volume, .release(owner, snapshotUUID: snapshotUUID), holding: lock)
    }

    package func grow(
        _ volume: LogicalVolumeID, to byteCount: UInt64, holding lock: FileLock
    ) throws {
        let sectors = byteCount / 512 + (byteCount % 512 == 0 ? 0 : 1)
        try change(volume, .grow(byteCount: KernelValues.bytes(sectors, of: 512)), holding: lock)
    }

    package func activate(_ volume: LogicalVolumeID, holding lock: FileLock) throws {
        try change(volume, .activate, holding: lock)
    }

    private func change(
        _ volume: LogicalVolumeID, _ order: HelperRequest.Order, holding lock: FileLock
    ) throws {
        guard case .done = try ask(volume, order, holding: lock) else {
            throw HelperError.notUnderstood("another request's")
        }
    }

    private func ask(
        _ volume: LogicalVolumeID, _ order: HelperRequest.Order, holding lock: FileLock?
    ) throws -> HelperAnswer {
        let channel: Channel
        do { channel = try Channel(connectingTo: path) } catch { throw HelperError.absent(error) }
        let request = HelperRequest(volume, order).encoded()
        guard channel.send(request, passing: lock?.descriptor) else {
            throw HelperError.absent(SystemCallError("sendmsg", path))
        }
        // A request that changes something has no time limit.
        if !order.isChange, !channel.wait(seconds: Self.patience) {
            throw HelperError.absent(SystemCallError("recvmsg", path, code: Self.timedOut))
        }
        guard let message = channel.receive(HelperAnswer.limit + 1) else {
            throw HelperError.notUnderstood("it ended without one")
        }
        let answer: HelperAnswer
        do {
            answer = try message.bytes.withRawSpan { (span) throws(WireError) in
                try HelperAnswer(decoding: span)
            }
        } catch { throw HelperError.notUnderstood("\(error)") }
        switch answer {
        case .refused(let reason, _), .failed(let reason, _): throw HelperError.refused(reason)
        default: break
        }
        guard answer.type == order.type else {
            throw HelperError.notUnderstood("another request's")
        }
        return answer
    }

    /// ETIMEDOUT.
    private static let timedOut: Int32 = 110
}
