// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import LVM
package import Wire

/// How the name of a kept generation's snapshot ends.
struct KeptName {
    let short: String
    /// Numbers begin anew with every lineage.
    let long: String

    init(_ mark: GenerationMark) {
        short = "_blockferry_g\(mark.number)"
        long = short + "_\(mark.id)".prefix(9)
    }

    /// Where nothing fits before it, a name is the ending without its first sign.
    func matches(_ name: String) -> Bool {
        let name = "_" + name
        return name.hasSuffix(short) || name.hasSuffix(long)
    }

    /// Whether a name is that which a snapshot of this volume was given.
    func matches(_ name: String, of volume: LogicalVolume) -> Bool {
        name == volume.derivedName(short) || name == volume.derivedName(long)
    }
}

/// The tags on the snapshots of a standby, which say all there is to know of a kept generation.
package struct KeptTags {
    private let volume: VolumeName
    /// Only this standby's snapshots have it.
    let standby: String

    package init(_ owner: KeptOwner) {
        volume = owner.volume
        standby = "blockferry.standby=" + Hex.encode(owner.standby)
    }

    func new(_ mark: GenerationMark) -> [String] {
        [
            "blockferry", standby, "blockferry.volume=\(volume)",
            "blockferry.generation=\(mark.number)",
            "blockferry.id=\(mark.id)",
            "blockferry.time=\(mark.sourceTime)",
            "blockferry.committed=\(mark.committedAt)",
        ]
    }

    /// The generations of this volume that are kept in a group, none of them twice.
    ///
    /// A snapshot that was made writable may hold something else by now, one that was renamed is somebody's, and so is one
    /// that LVM knows to be of another volume: they are the operator's. Where LVM has forgotten the origin, pool and whole
    /// name must be right.
    package func own(
        in volumes: [LogicalVolume], of target: LogicalVolume
    ) -> [KeptGeneration] {
        var ids: Set<SHA256Digest> = []
        guard case .thin(_, let pool, _, _) = target.kind else { return [] }
        return volumes.compactMap { lv in
            guard case .thin(_, pool, _, _) = lv.kind, lv.isReadOnly, !lv.isMerging,
                lv.uuid != target.uuid, let found = generation(of: lv)
            else { return nil }
            let name = KeptName(found.mark)
            let isNamed =
                lv.originUUID == nil
                ? name.matches(lv.name, of: target)
                : lv.originUUID == target.uuid && name.matches(lv.name)
            return isNamed ? found : nil
        }.filter { ids.insert($0.id).inserted }
    }

    private func generation(of lv: LogicalVolume) -> KeptGeneration? {
        func value(_ name: String) -> String? {
            let prefix = "blockferry.\(name)="
            return lv.tags.first { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
        }
        guard case .thin(_, _, let device, _) = lv.kind,
            lv.tags.isSuperset(of: ["blockferry", standby, "blockferry.volume=\(volume)"]),
            let number = value("generation").flatMap({ UInt64($0) }), number > 0,
            let id = value("id").flatMap(Hex.decode).flatMap({ SHA256Digest(bytes: $0) }),
            let sourceTime = value("time").flatMap({ UInt64($0) }),
            let committedAt = value("committed").flatMap({ UInt64($0) })
        else { return nil }
        return KeptGeneration(
            number: number, id: id, sourceTime: sourceTime, committedAt: committedAt,
            snapshot: lv.fullName, snapshotUUID: lv.uuid, thinDevice: device)
    }
}
