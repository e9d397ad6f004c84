// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import FoundationEssentials
package import LVM
package import Wire

/// The ending of a kept generation's snapshot name.
struct KeptName {
    let short: String
    /// Includes an id, because each lineage starts counting again.
    let long: String

    init(_ mark: GenerationMark) {
        short = "_blockferry_g\(mark.number)"
        long = short + "_\(mark.id)".prefix(9)
    }

    /// If nothing fits before it, the name is the ending without its first character.
    func matches(_ name: String) -> Bool {
        let name = "_" + name
        return name.hasSuffix(short) || name.hasSuffix(long)
    }

    /// Whether a snapshot of this volume was given this name.
    func matches(_ name: String, of volume: LogicalVolume) -> Bool {
        name == volume.derivedName(short) || name == volume.derivedName(long)
    }
}

/// The tags on a standby's snapshots, which hold everything known of a kept generation
/// (Protocol/Helper.md 5).
package struct KeptTags {
    /// On each of our snapshots, for people and for LVM's settings.
    private static let mark = "blockferry"
    private static let prefix = "bfk2:"
    private let owner: KeptOwner

    package init(_ owner: KeptOwner) { self.owner = owner }

    /// The tags of a new snapshot.
    package func new(_ mark: GenerationMark) -> [String] { [Self.mark, packed(mark)] }

    private func packed(_ mark: GenerationMark) -> String {
        var bytes = owner.standby + mark.id.bytes
        bytes.append(littleEndian: mark.sourceTime)
        bytes.append(littleEndian: mark.committedAt)
        let text = Data(bytes).base64EncodedString().prefix { $0 != "=" }
        return "\(Self.prefix)\(mark.number):\(owner.volume):\(text)"
    }

    /// The tag, of either form, that only this owner's snapshots have; `nil` if the volume has
    /// none.
    func proof(of lv: LogicalVolume) -> String? {
        guard let found = generation(of: lv) else { return nil }
        let packed = packed(found.mark)
        return lv.tags.contains(packed) ? packed : FirstTags.standby(owner)
    }

    /// The kept generations of this volume in a group, without duplicates.
    ///
    /// A snapshot that was made writable may have changed; one that was renamed, or that LVM knows
    /// to be of another volume, is used for something else: all of these belong to the operator. If
    /// LVM has forgotten the origin, the pool and the whole name must match.
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
        guard case .thin(_, _, let device, _) = lv.kind, lv.tags.contains(Self.mark),
            let found = mark(of: lv)
        else { return nil }
        return KeptGeneration(
            found, snapshot: lv.fullName, snapshotUUID: lv.uuid, thinDevice: device)
    }

    /// The mark in its one packed tag, or without one the mark in tags of the first form.
    private func mark(of lv: LogicalVolume) -> GenerationMark? {
        let packed = lv.tags.filter { $0.hasPrefix(Self.prefix) }
        guard let tag = packed.first else { return FirstTags.mark(lv.tags, owner) }
        return packed.count == 1 ? mark(tag) : nil
    }

    /// Reads a packed tag of this owner.
    package func mark(_ tag: String) -> GenerationMark? {
        let parts = tag.dropFirst(Self.prefix.count).split(
            separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, let number = UInt64(parts[0]), number > 0,
            let data = Data(base64Encoded: parts[2] + "=")
        else { return nil }
        let found = [UInt8](data).withRawSpan { bytes -> GenerationMark? in
            guard let id = (try? bytes.copyBytes(at: 8, count: 32)).flatMap(SHA256Digest.init),
                let sourceTime = try? bytes.littleEndian(at: 40, as: UInt64.self),
                let committedAt = try? bytes.littleEndian(at: 48, as: UInt64.self)
            else { return nil }
            return GenerationMark(
                number: number, id: id, sourceTime: sourceTime, committedAt: committedAt)
        }
        // The tag must match in owner and all other fields: one generation has exactly one tag.
        return found.flatMap { packed($0) == tag ? $0 : nil }
    }
}

/// The tags on snapshots of earlier versions: one for each fact.
private enum FirstTags {
    static func standby(_ owner: KeptOwner) -> String {
        "blockferry.standby=" + Hex.encode(owner.standby)
    }

    static func mark(_ tags: Set<String>, _ owner: KeptOwner) -> GenerationMark? {
        func value(_ name: String) -> String? {
            let prefix = "blockferry.\(name)="
            return tags.first { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
        }
        guard tags.isSuperset(of: [standby(owner), "blockferry.volume=\(owner.volume)"]),
            let number = value("generation").flatMap({ UInt64($0) }), number > 0,
            let id = value("id").flatMap(Hex.decode).flatMap({ SHA256Digest(bytes: $0) }),
            let sourceTime = value("time").flatMap({ UInt64($0) }),
            let committedAt = value("committed").flatMap({ UInt64($0) })
        else { return nil }
        return GenerationMark(
            number: number, id: id, sourceTime: sourceTime, committedAt: committedAt)
    }
}
