// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The space for LVM's text of a volume group, to which each volume adds: the smallest of its
/// metadata areas.
package struct GroupText: Hashable, Sendable {
    /// Size of an area in bytes; each change writes to the half that the previous one did not. 0 if
    /// unknown.
    package var areaByteCount: UInt64
    /// Number of bytes by which the text can still grow.
    package var freeByteCount: UInt64

    package init(areaByteCount: UInt64, freeByteCount: UInt64) {
        self.areaByteCount = areaByteCount
        self.freeByteCount = freeByteCount
    }

    /// Largest text in bytes. LVM leaves out two sectors.
    package var limit: UInt64 { areaByteCount / 2 - min(areaByteCount / 2, 768) }

    /// Space that kept generations leave free: when the text is full, nothing in the group can be
    /// made or extended, not even the pool.
    package var reserve: UInt64 { limit / 20 }

    /// Queries LVM, without waiting for a holder of the group's lock.
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

    /// Decodes the output of `vgs`.
    package init(report text: String) throws(LVMError) {
        let words = text.split(whereSeparator: \.isWhitespace)
        guard words.count == 2, let area = UInt64(words[0]), let free = UInt64(words[1]) else {
            throw .unexpected(
                "vgs prints no room of a volume group; it begins: \(text.prefix(80))")
        }
        self.init(areaByteCount: area, freeByteCount: free)
    }
}

/// Checks the space that a snapshot needs before it is made. Running out of it stops more than this
/// program: every writer to a thin pool, and every change of a volume group.
package enum SnapshotRoom {
    /// Percentage from which on a warning is given.
    package static let warningPercent = 80.0

    /// The warnings about a volume's group and pool, from LVM's report.
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

    /// The warnings from known values.
    ///
    /// - Parameters:
    ///   - group: name of the group.
    ///   - pool: name of the pool, if there is one, and its used shares in percent.
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

    /// The rounded percentage, or `nil` if it needs no warning.
    private static func high(_ percent: Double?) -> Int? {
        guard let percent, percent.isFinite, percent >= warningPercent else { return nil }
        return Int(min(percent, 100))
    }
}
