// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Sending
internal import Wire

/// One source, the standby, and the volume's name there.
struct OneVolumeOptions: ParsableArguments {
    @OptionGroup var source: SourceOptions

    @Option(
        name: .customLong("to"), help: ArgumentHelp("The standby.", valueName: "peer"),
        transform: ReceiverName.parse)
    var receiver: ReceiverName

    @Option(
        help: ArgumentHelp(
            "Name of the volume on the standby (default: the name of the logical volume).",
            valueName: "name"), transform: VolumeName.parse)
    var volume: VolumeName?

    /// Values for the placeholders of a next step.
    func words(_ verb: String) -> [String: String] { source.words(verb, receiver, volume) }

    /// The volume's name on the standby and, if the source is one, the logical volume.
    func find() throws -> (
        name: VolumeName, live: (group: VolumeGroup, volume: LogicalVolume)?
    ) {
        let found = try source.paths.first.flatMap { try SourceOptions.liveVolume($0) }
        guard let name = volume ?? found.flatMap({ VolumeName($0.volume.name) }) else {
            try SourceOptions.checkNamed(source.paths.first, found?.volume)
            throw ValidationError("Name the volume on the standby: --volume NAME.")
        }
        return (name, found)
    }

    /// Opens a source that is not a logical volume.
    ///
    /// - Parameter isInDoubtKnown: whether the known size may come from a generation in doubt.
    func open(
        _ home: SourceHome, _ name: VolumeName, isInDoubtKnown: Bool = false
    ) throws -> any Source {
        let replica = try home.catalog.replica(name, at: receiver)
        let known = (isInDoubtKnown ? replica?.pending : nil) ?? replica?.committed
        return try source.open(knownSize: known?.head.volumeSize)
    }
}

extension LiveVolume {
    /// A logical volume whose warnings go to the user.
    convenience init(
        warning volume: LogicalVolume, _ options: LiveVolume.Options, home: SourceHome
    ) throws {
        try self.init(
            volume, options, home: home, warn: { Terminal.error("warning: \($0)") })
    }
}
