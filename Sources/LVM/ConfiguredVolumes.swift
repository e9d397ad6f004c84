// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The logical volumes that an administrator lists in a file: one "VG/LV" per line.
package struct ConfiguredVolumes: Equatable, Sendable {
    /// Largest file in bytes.
    package static let limit = 64 << 10
    /// Full names, "vg/lv".
    package let names: Set<String>
    private let mapperNames: Set<String>

    /// Parses the text of the file. It skips lines that are empty or start with #; returns `nil` if
    /// another line is not a name.
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

    /// Whether this volume is listed.
    package func contains(_ volume: LogicalVolume) -> Bool { names.contains(volume.fullName) }

    /// Whether the volume with this device-mapper name is listed.
    package func contains(mapperName: String) -> Bool { mapperNames.contains(mapperName) }

    /// The device-mapper name of a volume: a dash between group and volume, dashes inside them
    /// doubled.
    static func mapperName(_ parts: [Substring]) -> String {
        parts.map {
            $0.split(separator: "-", omittingEmptySubsequences: false).joined(separator: "--")
        }
        .joined(separator: "-")
    }
}
