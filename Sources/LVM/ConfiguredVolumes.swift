// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The logical volumes that an administrator has named in a file: "VG/LV", one a line.
package struct ConfiguredVolumes: Equatable, Sendable {
    /// The greatest file, in bytes.
    package static let limit = 64 << 10
    /// "vg/lv".
    package let names: Set<String>
    private let mapperNames: Set<String>

    /// Reads the text of the file. Lines that are empty or begin with # do not count; nothing if another one is no name.
    package init?(_ text: String) {
        var names: Set<String> = []
        var mapperNames: Set<String> = []
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let parts = line.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 2, parts.allSatisfy(VolumeGroup.isName) else { return nil }
            names.insert(String(line))
            mapperNames.insert(Self.mapperName(parts))
        }
        self.names = names
        self.mapperNames = mapperNames
    }

    /// Whether a volume of this name may be worked on.
    package func contains(_ volume: LogicalVolume) -> Bool { names.contains(volume.fullName) }

    /// Whether a device that device-mapper calls so is that of a volume that may be worked on.
    package func contains(mapperName: String) -> Bool { mapperNames.contains(mapperName) }

    /// How device-mapper calls the volume of a group: a dash stands between the two, and is doubled inside of them.
    static func mapperName(_ parts: [Substring]) -> String {
        parts.map {
            $0.split(separator: "-", omittingEmptySubsequences: false).joined(separator: "--")
        }
        .joined(separator: "-")
    }
}
