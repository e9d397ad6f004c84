// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
package import Staging
internal import TLS
package import Wire

/// Why a volume cannot be registered or changed.
package enum AdministrationError: RuledError, CustomStringConvertible {
    /// No volume has this name.
    case unknownVolume(VolumeName)
    /// A session or another command holds the volume.
    case busy(VolumeName)
    /// The volume has no complete generation to promote.
    case nothingToPromote(VolumeName, VolumeState)
    /// The committed generation is not on its target yet and cannot be applied now.
    case notApplied(VolumeName, number: UInt64, TargetError)
    /// The target does not hold the generation to promote, for this reason.
    case notTheCopy(VolumeName, String)
    /// The target is lost, for this reason, but a kept snapshot holds the previous generation.
    case targetLost(VolumeName, String, KeptGeneration)
    /// Only the staging log holds the complete committed generation.
    case onlyInLog(VolumeName)
    /// A generation waits for the other members of its group.
    case waitsForGroup(VolumeName)
    /// The volume has no unfinished transfer.
    case noTransfer(VolumeName, VolumeState)
    /// The new target is not proven to hold the generation, for this reason.
    case notRetargeted(VolumeName, String, String)
    /// The volume has no complete generation to compare the target with.
    case nothingToScrub(VolumeName, VolumeState)
    /// A promoted copy belongs to the operator until the volume is demoted.
    case notDemoted(VolumeName)
    /// Only a promoted volume can be demoted.
    case notPromoted(VolumeName, VolumeState)
    /// This target cannot keep generations.
    case cannotKeep(String)
    /// The daemon is running and may not write this file.
    case readOnlyForService(String)
    /// The daemon is running and sees a different file at this path.
    case hiddenFromService(String)

    package var description: String {
        switch self {
        case .unknownVolume(let name): "there is no volume \(name)"
        case .busy(let name): "a session has the volume \(name)"
        case .nothingToPromote(let name, .promoted):
            "volume \(name) is promoted already; nothing was done"
        case .nothingToPromote(let name, let state):
            "volume \(name) is \(state): it holds no complete generation"
        case .notApplied(let name, let number, .replaced(let path, _, _)):
            "generation \(number) of volume \(name) is committed, and is not written to \(path): what that holds is neither "
                + "this generation nor the one before, and may be a later one, or somebody's"
        case .notApplied(let name, let number, let error):
            "generation \(number) of volume \(name) is committed, but cannot be written to its target: \(error). The "
                + "staging log holds all of it"
        case .notTheCopy(let name, let reason): "volume \(name) is not promoted: \(reason)"
        case .targetLost(let name, let reason, let kept):
            "volume \(name) is not promoted: \(reason). Generation \(kept.number) was kept as the snapshot "
                + "/dev/\(kept.snapshot)"
        case .notRetargeted(let name, let path, let reason):
            "\(path) is not the target of volume \(name) now: \(reason)"
        case .onlyInLog(let name):
            "volume \(name) is applying: only its staging log holds the committed generation as a whole"
        case .waitsForGroup(let name):
            "volume \(name) is prepared: its next generation is whole, and waits for the others of its group"
        case .noTransfer(let name, let state):
            "volume \(name) is \(state): it has no unfinished transfer"
        case .nothingToScrub(let name, let state):
            "volume \(name) is \(state): there is no generation that its target should be"
        case .notDemoted(let name):
            "volume \(name) is promoted, and its copy may be in use; nothing was done"
        case .notPromoted(let name, let state):
            "volume \(name) is \(state), not promoted: a resync needs no leave to replace its content"
        case .cannotKeep(let path):
            "generations are kept as snapshots in a thin pool, and \(path) is no LVM thin volume"
        case .readOnlyForService(let path):
            "\(path) is read-only for the service: its unit does not let it write there"
        case .hiddenFromService(let path):
            "\(path) is not what the service finds there: its unit shows it other files"
        }
    }

    package var refusalRule: RefusalRule? {
        switch self {
        case .unknownVolume: .unknownVolume
        case .busy: .busy
        case .nothingToPromote(_, .promoted): .alreadyPromoted
        case .nothingToPromote, .nothingToScrub: .noGeneration
        case .notApplied(_, _, .replaced): .notWritten
        case .notApplied: .notApplied
        case .notTheCopy: .notTheCopy
        case .targetLost: .targetLost
        case .onlyInLog: .onlyInLog
        case .waitsForGroup: .prepared
        case .noTransfer: .noTransfer
        case .notRetargeted: .notRetargeted
        case .notDemoted: .notDemoted
        case .notPromoted: .notPromoted
        case .cannotKeep: .cannotKeep
        case .readOnlyForService: .readOnly
        case .hiddenFromService: .missing
        }
    }

    package var words: [String: String] {
        switch self {
        case .notRetargeted(let name, let path, _): ["VOLUME": name.text, "PATH": path]
        case .notApplied(let name, _, .replaced(let path, _, _)):
            ["VOLUME": name.text, "PATH": path]
        case .targetLost(let name, _, let kept):
            [
                "VOLUME": name.text, "SNAPSHOT": kept.snapshot,
                "GROUP": String(kept.snapshot.prefix { $0 != "/" }),
            ]
        case .unknownVolume(let name), .busy(let name), .nothingToPromote(let name, _),
            .notApplied(let name, _, _), .notTheCopy(let name, _), .onlyInLog(let name),
            .waitsForGroup(let name), .noTransfer(let name, _),
            .nothingToScrub(let name, _), .notDemoted(let name), .notPromoted(let name, _):
            ["VOLUME": name.text]
        case .cannotKeep: [:]
        case .readOnlyForService(let path), .hiddenFromService(let path): ["PATH": path]
        }
    }
}

/// Operations for the standby's operator.
package struct Administration {
    let home: StandbyHome

    package init(_ home: StandbyHome) {
        self.home = home
    }

    /// Registers a volume if it is new and makes an invitation for it.
    ///
    /// - Parameters:
    ///   - targetPath: path of the target; for a registered volume, `nil` or the same path.
    ///   - createFile: make an empty file if the path does not exist.
    ///   - mayOverwrite: allow replacing the target's content, and accept another standby's mark.
    ///   - retention: the generations to keep; `nil` changes nothing.
    ///   - address: address for the sender to connect to.
    package func invite(
        _ name: VolumeName, targetPath: String?, createFile: Bool, mayOverwrite: Bool,
        retention: Retention?,
        address: String, seconds: UInt64
    ) throws -> Invitation {
        if try home.catalog.volume(name) == nil {
            guard let targetPath else { throw AdministrationError.unknownVolume(name) }
            try ServiceView.check(targetPath, for: home)
            if createFile, !Directory.exists(targetPath) {
                let file = try File(path: targetPath, [.write, .createNew])
                try file.sync()
                try Directory.sync(Directory.parent(of: targetPath))
            }
            try TargetOwner.checkOwnState(home, targetPath)
            // Open it as a writer does, to find a mounted or read-only target now.
            let target = try Target(path: targetPath, registered: nil)
            if retention != nil { try checkKeeping(on: targetPath) }
            try register(name, target, mayOverwrite: mayOverwrite)
        } else if let targetPath, try home.catalog.volume(name)?.targetPath != targetPath {
            throw CatalogError(
                path: home.path, operation: "invite for volume \(name)",
                kind: .conflict(
                    "the volume has another target; blockferryd retarget changes it"))
        } else if mayOverwrite, try home.catalog.volume(name)?.state == .empty {
            try home.catalog.allowOverwriting(name)
        }
        if let retention { try setRetention(name, retention) }
        let secret = SecureRandom.bytes(16)
        let now = Clock.wall()
        try home.catalog.addInvitation(
            secretHash: SHA256Digest.of(secret), volume: name,
            expiresAt: now + seconds * nanosecondsPerSecond, now: now)
        return Invitation(
            receiver: try home.identity().keyID, secret: secret, volume: name, address: address)
    }

    /// Registers a volume whose target is open.
    private func register(
        _ name: VolumeName, _ target: Target, mayOverwrite: Bool
    ) throws {
        let object = try TargetObject(path: target.path)
        let owner = try TargetOwner(home, object)
        try owner.check(
            name, among: try home.catalog.volumes(), mayTakeOver: mayOverwrite)
        if !mayOverwrite, let content = try TargetContent.describe(object) {
            throw TargetError.occupied(target.path, by: content, volume: name)
        }
        try claiming { claim in
            try home.catalog.createVolume(
                name, peer: nil, targetPath: target.path, targetKind: target.kind,
                mayOverwrite: mayOverwrite,
                presence: object.device.flatMap { VolumeWriter.presence(of: $0) }
            ) { others in
                try claim {
                    try owner.check(name, among: others, mayTakeOver: mayOverwrite)
                    return "\(try owner.claim(for: name))"
                }
            }
        }
    }

    /// Runs a catalog transaction that takes a target; its refusals are thrown unchanged.
    func claiming<Value>(
        _ body: ((() throws -> String) throws -> String) throws -> Value
    ) throws -> Value {
        var refusal: TargetError?
        do {
            return try body { claim in
                do { return try claim() } catch let error as TargetError {
                    refusal = error
                    throw error
                }
            }
        } catch {
            throw refusal ?? error
        }
    }

    private func checkKeeping(on path: String) throws {
        guard Keeper.isPossible(on: try File(path: path).status()) else {
            throw AdministrationError.cannotKeep(path)
        }
    }

    private func setRetention(_ name: VolumeName, _ retention: Retention) throws {
        guard let volume = try home.catalog.volume(name) else {
            throw AdministrationError.unknownVolume(name)
        }
        try checkKeeping(on: volume.targetPath)
        if try home.catalog.retention(name) != retention {
            try home.catalog.setRetention(name, retention)
        }
    }

    /// Number of snapshots that the target's thin pool can still take; `nil` for other targets, or
    /// if unknown.
    package func snapshotsLeft(_ volume: StandbyVolume) -> UInt64? {
        Keeper.snapshotsLeft(home, below: volume.targetPath)
    }

    /// Changes which generations of a volume are kept, and applies that at once unless a session
    /// holds the volume; then the end of the session does it.
    ///
    /// - Returns: what could not be done at once, or `nil`.
    package func keep(_ name: VolumeName, _ retention: Retention) throws -> String? {
        try setRetention(name, retention)
        guard let writer = try VolumeWriter.soon(home, name) else {
            return "\(AdministrationError.busy(name))"
        }
        return try writer.keepNow()
    }

    /// Confirms that this host's clock is right although it advanced more than the elapsed time.
    /// Generations that are too old by it are released.
    ///
    /// - Returns: what could not be done at once, or `nil`.
    package func trustClock(_ name: VolumeName) throws -> String? {
        try home.catalog.trustClock(name, .now)
        guard let writer = try VolumeWriter.soon(home, name) else {
            return "\(AdministrationError.busy(name))"
        }
        return try writer.keepNow()
    }

    func writer(_ name: VolumeName) throws -> VolumeWriter {
        guard try home.catalog.volume(name) != nil else {
            throw AdministrationError.unknownVolume(name)
        }
        guard let writer = try VolumeWriter.soon(home, name) else {
            throw AdministrationError.busy(name)
        }
        return writer
    }

    /// Finishes or drops what is pending and hands the target over to the operator.
    ///
    /// A generation whose group is complete is finished; one that waits for its group is dropped,
    /// so the group can no longer complete. Other members of the group are finished when they are
    /// promoted.
    ///
    /// - Parameter isChecked: require that the target exists, is the registered one, has the
    ///   generation's size, and holds the generation in a sample of blocks.
    package func promote(
        _ name: VolumeName, isChecked: Bool, _ progress: (Progress) throws -> Void = { _ in }
    ) throws -> StandbyVolume {
        let writer = try writer(name)
        writer.isForced = !isChecked
        do { try writer.recover() } catch let error as TargetError {
            guard writer.volume.state == .applying, let record = writer.volume.applying else {
                throw error
            }
            throw orKept(
                .notApplied(name, number: record.head.number, error), writer.volume,
                isLost: error.isLoss)
        }
        if writer.volume.state == .prepared {
            do { try writer.abandon() } catch let error as CatalogError {
                // The last member arrived meanwhile.
                guard case .conflict = error.kind else { throw error }
                try writer.refresh()
                try writer.recover()
            }
        }
        let states: [VolumeState] = [.consistent, .staging] + (isChecked ? [] : [.diverged])
        guard states.contains(writer.volume.state), writer.volume.committed != nil else {
            if writer.volume.state == .diverged, writer.volume.committed != nil {
                throw orKept(
                    .notTheCopy(name, writer.volume.suspectReason ?? ""), writer.volume)
            }
            throw orKept(.nothingToPromote(name, writer.volume.state), writer.volume)
        }
        if isChecked {
            do {
                // A program that has the target open may be writing it.
                _ = try writer.openTarget()
                try writer.checkTarget(progress)
            } catch let error as TargetError {
                throw orKept(
                    .notTheCopy(name, "\(error)"), writer.volume, isLost: error.isLoss)
            }
            guard states.contains(writer.volume.state) else {
                throw orKept(
                    .notTheCopy(name, writer.volume.suspectReason ?? ""), writer.volume)
            }
        }
        try writer.promote()
        return writer.volume
    }

    /// The error for a volume that is not promoted. If the target is lost and its committed
    /// generation was kept, it names the snapshot to continue with. LVM knows whether the snapshot
    /// still exists; `retarget` reads and verifies all of it.
    private func orKept(
        _ plain: AdministrationError, _ volume: StandbyVolume, isLost: Bool = true
    ) -> AdministrationError {
        guard isLost, volume.state != .promoted, let committed = volume.committed,
            let kept = try? home.catalog.kept(volume.name).first(where: { $0.id == committed.id })
        else { return plain }
        let reason =
            switch plain {
            case .notTheCopy(_, let reason): reason
            default: "\(plain)"
            }
        return .targetLost(volume.name, reason, kept)
    }

    /// Lets one resync overwrite a promoted copy. It is refused while the target is open or
    /// mounted. Taking it back drops what a resync has brought meanwhile, none of which is on the
    /// target.
    ///
    /// - Parameter isTakenBack: forbid the overwrite again.
    /// - Parameter isDryRun: check, and change nothing.
    package func demote(_ name: VolumeName, isTakenBack: Bool, isDryRun: Bool) throws {
        let writer = try writer(name)
        guard writer.volume.state == .promoted else {
            throw AdministrationError.notPromoted(name, writer.volume.state)
        }
        if !isTakenBack {
            _ = try writer.openTarget()
            try writer.checkPresence(try TargetObject(path: writer.volume.targetPath))
        }
        if !isDryRun { try writer.demote(!isTakenBack) }
    }

    /// Forgets every generation of a volume, so that a full copy may replace the target's content.
    package func reset(_ name: VolumeName) throws {
        let writer = try writer(name)
        guard writer.volume.state != .promoted || writer.volume.isDemoted else {
            throw AdministrationError.notDemoted(name)
        }
        try writer.reset()
    }
}
