// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The room for LVM's text of a volume group, which each volume takes some of: the smallest of its metadata areas.
package struct GroupText: Hashable, Sendable {
    /// Of an area, of which each change takes the half that the one before did not; 0 if not known.
    package var areaByteCount: UInt64
    /// Bytes that the text can still grow by.
    package var freeByteCount: UInt64

    package init(areaByteCount: UInt64, freeByteCount: UInt64) {
        self.areaByteCount = areaByteCount
        self.freeByteCount = freeByteCount
    }

    /// The longest text. LVM leaves two sectors out of it.
    package var limit: UInt64 { areaByteCount / 2 - min(areaByteCount / 2, 768) }

    /// What kept generations leave free: with a text that is full nothing in the group can be made or extended any more, not
    /// even the pool.
    package var reserve: UInt64 { limit / 20 }

    /// Asks LVM, without waiting for somebody who has the group's lock.
    ///
    /// - Parameter id: LVM's id of the group, without dashes.
    package init(ofGroup id: some StringProtocol) throws(LVMError) {
        let parts = [6, 4, 4, 4, 4, 4, 6].reduce(into: (rest: id[...], parts: [String]())) {
            $0.parts.append(String($0.rest.prefix($1)))
            $0.rest = $0.rest.dropFirst($1)
        }.parts
        let said = try LVMProgram.ask(
            "vgs",
            [
                "--readonly", "--noheadings", "--units", "b", "--nosuffix", "-o",
                "vg_mda_size,vg_mda_free",
                "--select", "vg_uuid=\(parts.joined(separator: "-"))",
            ])
        try self.init(report: said.text)
    }

    /// Decodes what `vgs` has printed.
    package init(report text: String) throws(LVMError) {
        let words = text.split(whereSeparator: \.isWhitespace)
        guard words.count == 2, let area = UInt64(words[0]), let free = UInt64(words[1]) else {
            throw .unexpected(
                "vgs prints no room of a volume group; it begins: \(text.prefix(80))")
        }
        self.init(areaByteCount: area, freeByteCount: free)
    }
}

/// How full that is which a snapshot needs room in. Looked at before one is made: what is full then stops more than this
/// program: each writer to a thin pool, and each change of a volume group.
package enum SnapshotRoom {
    /// From how many percent on a warning is given.
    package static let warningPercent = 80.0

    /// What to tell of a volume's group and pool, as LVM has reported them.
    package static func warnings(
        for volume: LogicalVolume, in group: VolumeGroup
    ) -> [String] {
        var pool: LogicalVolume?
        if case .thin(let name, _, _, _) = volume.kind { pool = group.volume(named: name) }
        return warnings(
            of: "volume group \(group.name)", volume.groupText,
            pool: pool.map {
                ("thin pool \($0.fullName)", data: $0.usedPercent, metadata: $0.metadataPercent)
            })
    }

    /// The same.
    ///
    /// - Parameters:
    ///   - group: what to call the group.
    ///   - pool: what to call the pool, if there is one, and how full it is, in percent.
    package static func warnings(
        of group: String, _ text: GroupText,
        pool: (name: String, data: Double?, metadata: Double?)?
    ) -> [String] {
        var warnings: [String] = []
        if let pool, let percent = high(pool.data) {
            warnings.append(
                "the \(pool.name) is \(percent) % full: a pool without room stops everybody who writes to it"
            )
        }
        if let pool, let percent = high(pool.metadata) {
            warnings.append(
                "the metadata of the \(pool.name) is \(percent) % full: a pool without room there becomes read-only "
                    + "(lvextend --poolmetadatasize)")
        }
        let used = text.limit - min(text.freeByteCount, text.limit)
        if text.limit > 0, let percent = high(Double(used) / Double(text.limit) * 100) {
            warnings.append(
                "LVM's metadata of the \(group) is \(percent) % full: without room there no volume of it can be made or "
                    + "extended")
        }
        return warnings.map { $0 + ". Make room, or have fewer snapshots (docs/OPERATIONS.md 3)" }
    }

    /// A number of percent for people, if it is one to tell.
    private static func high(_ percent: Double?) -> Int? {
        guard let percent, percent.isFinite, percent >= warningPercent else { return nil }
        return Int(min(percent, 100))
    }
}
