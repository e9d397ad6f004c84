// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Platform
internal import Sending
internal import Wire

/// The source of a generation: one of four kinds.
struct SourceOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            """
            A logical volume, as vg/lv or by its path: a snapshot of it is taken. Or a file or another block \
            device, which must not be written meanwhile.
            """,
            valueName: "source"))
    var paths: [String] = []

    @Option(
        help: ArgumentHelp(
            "Thin pool: image of the metadata (tmeta).", valueName: "file"))
    var thinMetadata: String?

    @Option(help: ArgumentHelp("Thin pool: image of the data (tdata).", valueName: "file"))
    var thinData: String?

    @Option(help: ArgumentHelp("Thin pool: id of the device to send.", valueName: "id"))
    var device: UInt32?

    @Option(
        help: ArgumentHelp(
            "Thin pool: size of the volume. The metadata does not hold it; after the first generation it is known.",
            valueName: "bytes"))
    var volumeSize: UInt64?

    @Flag(help: "Thin pool: read the metadata snapshot that the pool holds.")
    var metadataSnapshot = false

    @Option(
        help: ArgumentHelp("Classic snapshot: image of the origin.", valueName: "file"))
    var cowOrigin: String?

    @Option(
        help: ArgumentHelp(
            "Classic snapshot: image of its store (the -cow device). Without it the origin itself is sent.",
            valueName: "file"))
    var cowStore: String?

    @Option(
        help: ArgumentHelp(
            "Classic snapshot: image of the store of the snapshot that was sent last; it names what changed.",
            valueName: "file"))
    var baseStore: String?

    @Flag(
        help: """
            Send a file or device although it is mounted or open elsewhere, so that it may be written meanwhile; the \
            generation says so.
            """)
    var allowInUse = false

    @Flag(
        help: """
            Send another source than the volume was sent from so far. It is compared with what the standby holds, and \
            replaces that.
            """)
    var adoptSource = false

    func validate() throws {
        let kinds = [!paths.isEmpty, thinMetadata != nil, cowOrigin != nil].filter { $0 }.count
        guard kinds == 1 else {
            throw ValidationError(
                "Give one source: a logical volume, a file or device, --thin-metadata, or --cow-origin."
            )
        }
        guard (thinMetadata != nil) == (thinData != nil), (thinMetadata != nil) == (device != nil)
        else {
            throw ValidationError("--thin-metadata, --thin-data and --device go together.")
        }
        guard thinMetadata != nil || (volumeSize == nil && !metadataSnapshot) else {
            throw ValidationError(
                "--volume-size and --metadata-snapshot belong to --thin-metadata.")
        }
        guard cowOrigin != nil || (cowStore == nil && baseStore == nil) else {
            throw ValidationError("--cow-store and --base-store belong to --cow-origin.")
        }
    }

    /// The source as given, quoted for a shell.
    var text: String {
        var words: [String] = []
        func add(_ option: String, _ value: String?) {
            if let value { words += [option, NextStep.quoted(value)] }
        }
        words += paths.map(NextStep.quoted)
        add("--thin-metadata", thinMetadata)
        add("--thin-data", thinData)
        add("--device", device.map { "\($0)" })
        add("--volume-size", volumeSize.map { "\($0)" })
        if metadataSnapshot { words.append("--metadata-snapshot") }
        add("--cow-origin", cowOrigin)
        add("--cow-store", cowStore)
        add("--base-store", baseStore)
        return words.joined(separator: " ")
    }

    /// Values for the placeholders of a next step; a volume without a name gets the logical
    /// volume's.
    func words(_ verb: String, _ receiver: ReceiverName, _ volume: VolumeName?) -> [String: String]
    {
        var words = ["VERB": verb, "SOURCE": text, "PEER": receiver.text]
        words["VOLUME"] = volume?.text ?? paths.first?.split(separator: "/").last.map(String.init)
        return words
    }

    /// The logical volume of this name or path; `nil` if it is not one.
    static func liveVolume(
        _ path: String
    ) throws -> (group: VolumeGroup, volume: LogicalVolume)? {
        // An existing relative path takes precedence over a volume of the same name.
        guard path.hasPrefix("/") || !Directory.exists(path) else { return nil }
        return try VolumeGroup.find(path)
    }

    /// Explains why a source gives its volume no name, if there is a special reason: it does not
    /// exist, or its name is not valid on a standby.
    static func checkNamed(_ path: String?, _ volume: LogicalVolume?) throws {
        if let volume {
            throw ValidationError(
                "\(volume.name) is no name of a volume on a standby, which has \(VolumeName.rule): give another one by --volume NAME."
            )
        }
        if let path, !Directory.exists(path) {
            throw ValidationError("\(path): there is no such file, device or logical volume.")
        }
    }

    /// Opens the source; `knownSize` is the size of the last committed generation in bytes.
    ///
    /// - Parameter isLook: the source is not sent, so a concurrent send is not disturbed.
    func open(knownSize: UInt64?, isLook: Bool = false) throws -> any Source {
        if let path = paths.first {
            return try PlainSource(path: path, allowsUse: allowInUse, isLook: isLook)
        }
        if let thinMetadata, let thinData, let device {
            guard let size = volumeSize ?? knownSize else {
                throw ValidationError(
                    "A pool's metadata does not hold the size of a volume: give --volume-size.")
            }
            return try ThinImageSource(
                metadata: thinMetadata, data: thinData, device: device, volumeByteCount: size,
                heldByMetadataSnapshot: metadataSnapshot)
        }
        guard let cowOrigin else { throw ValidationError("Give a source.") }
        return try SnapshotImageSource(
            origin: cowOrigin, store: cowStore, baseStore: baseStore)
    }
}
