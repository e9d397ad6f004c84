// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The XML of `thin_delta` (thin-provisioning-tools), built piece by piece.
///
/// Numbers are blocks of `data_block_size` sectors, not bytes. Write the prefix, every run of a
/// difference with `includesSame`, and the suffix.
public struct ThinDeltaXML: Sendable {
    /// Text before the runs.
    public let prefix: String
    /// Text after the runs.
    public let suffix = "  </diff>\n</superblock>\n"

    /// Starts the text for two devices of one pool.
    public init(_ superblock: Superblock, from left: UInt32, to right: UInt32) {
        let snapshot = superblock.metadataSnapshot
        let held = snapshot == 0 ? "" : " metadata_snap=\"\(snapshot)\""
        prefix =
            "<superblock uuid=\"\" time=\"\(superblock.time)\" "
            + "transaction=\"\(superblock.transactionID)\" "
            + "data_block_size=\"\(superblock.dataBlockSectors)\" "
            + "nr_data_blocks=\"\(superblock.dataBlockCount)\"\(held)>\n"
            + "  <diff left=\"\(left)\" right=\"\(right)\">\n"
    }

    /// The text of one run.
    public func run(_ run: DifferenceRun) -> String {
        "    <\(run.kind.rawValue) begin=\"\(run.begin)\" length=\"\(run.length)\"/>\n"
    }
}

/// The XML of `thin_dump`, built piece by piece; `thin_restore` reads it.
public struct ThinDumpXML: Sendable {
    /// Text before the devices.
    public let prefix: String
    /// Text after the devices.
    public let suffix = "</superblock>\n"
    /// Text after the runs of a device.
    public let deviceSuffix = "  </device>\n"

    /// Starts the text for a pool.
    public init(_ superblock: Superblock) {
        prefix =
            "<superblock uuid=\"\" time=\"\(superblock.time)\" "
            + "transaction=\"\(superblock.transactionID)\" "
            + "flags=\"\(superblock.needsCheck ? 1 : 0)\" version=\"2\" "
            + "data_block_size=\"\(superblock.dataBlockSectors)\" "
            + "nr_data_blocks=\"\(superblock.dataBlockCount)\">\n"
    }

    /// Text before the runs of a device.
    public func devicePrefix(_ device: ThinDevice) -> String {
        "  <device dev_id=\"\(device.deviceID)\" mapped_blocks=\"\(device.mappedBlocks)\" "
            + "transaction=\"\(device.transactionID)\" "
            + "creation_time=\"\(device.creationTime)\" snap_time=\"\(device.snapshottedTime)\">\n"
    }

    /// The text of one run.
    public func run(_ run: MappingRun) -> String {
        run.length == 1
            ? "    <single_mapping origin_block=\"\(run.thinBlock)\" "
                + "data_block=\"\(run.dataBlock)\" time=\"\(run.time)\"/>\n"
            : "    <range_mapping origin_begin=\"\(run.thinBlock)\" "
                + "data_begin=\"\(run.dataBlock)\" length=\"\(run.length)\" "
                + "time=\"\(run.time)\"/>\n"
    }
}
