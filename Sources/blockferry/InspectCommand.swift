// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import SnapshotStore
internal import ThinMetadata

/// `blockferry inspect`: facts that a pool's metadata or a snapshot's store contains about itself.
struct InspectCommand: ParsableCommand {
    enum Format: String, ExpressibleByArgument, CaseIterable {
        case text, json, xml
    }

    static let configuration = CommandConfiguration(
        commandName: "inspect",
        abstract: "Show what a thin pool's metadata or a snapshot's store contains.",
        discussion: """
            For a thin pool: its block size, transaction, and devices.

              blockferry inspect --thin-metadata tmeta.img

            For a classic snapshot: its chunk size and how much of it is in use.

              blockferry inspect --cow-store /dev/mapper/vg-snap-cow

            XML is what thin_dump prints, with all mappings; thin_restore reads it. All devices \
            are read whole before anything is printed. A pool that needs a check can be \
            inspected, but 'changes' refuses it.
            """)

    @OptionGroup var input: OfflineInput

    @Option(help: "How to print: text, json or xml (xml for thin pools only).")
    var format = Format.text

    func validate() throws {
        guard input.thinMetadata != nil || input.cowStore != nil else {
            throw ValidationError("Give either --thin-metadata or --cow-store.")
        }
        guard input.thinMetadata != nil || format != .xml else {
            throw ValidationError("--format xml belongs to --thin-metadata.")
        }
    }

    func run() throws {
        if let file = input.cowStore {
            try DamagedInput.naming(file) {
                try show(try input.openStore(file, volumeByteCount: nil))
            }
        } else if let file = input.thinMetadata {
            try DamagedInput.naming(file) {
                let pool = try input.openPool(file, allowsNeedsCheck: true)
                switch format {
                case .text: try showText(pool)
                case .json: try showJSON(pool)
                case .xml: try showXML(pool)
                }
            }
        }
    }

    private func show(_ store: SnapshotStoreReader) throws {
        let chunk = store.header.chunkByteCount
        let perArea = store.header.recordsPerArea
        let spool = Spool()
        if format == .json {
            try spool.append(
                "{\"schema_version\":1,\"source\":\"cow\",\"chunk_bytes\":\(chunk),"
                    + "\"exceptions\":\(store.exceptionCount),"
                    + "\"exceptions_per_area\":\(perArea)}\n")
        } else {
            try spool.append("source              cow\n")
            try spool.append("chunk bytes         \(chunk)\n")
            try spool.append("exceptions          \(store.exceptionCount)\n")
            try spool.append("exceptions per area \(perArea)\n")
        }
        try spool.print()
    }

    private func showText(_ pool: ThinMetadataReader) throws {
        let superblock = pool.superblock
        let spool = Spool()
        try spool.append("source            thin\n")
        try spool.append("block bytes       \(superblock.dataBlockByteCount)\n")
        try spool.append("data blocks       \(superblock.dataBlockCount)\n")
        try spool.append("metadata blocks   \(superblock.metadataBlockCount)\n")
        try spool.append("transaction       \(superblock.transactionID)\n")
        try spool.append("time              \(superblock.time)\n")
        try spool.append("snapshots left    \(pool.snapshotBudget.left)\n")
        try spool.append("metadata snapshot \(superblock.metadataSnapshot)\n")
        try spool.append("needs check       \(superblock.needsCheck ? "yes" : "no")\n")
        try spool.append("devices           \(pool.devices.count)\n")
        for device in pool.devices {
            try spool.append(
                "device \(device.deviceID): \(device.mappedBlocks) blocks mapped, "
                    + "transaction \(device.transactionID), created at \(device.creationTime), "
                    + "last snapshot at \(device.snapshottedTime)\n")
        }
        try spool.print()
    }

    private func showJSON(_ pool: ThinMetadataReader) throws {
        let superblock = pool.superblock
        let spool = Spool()
        try spool.append(
            "{\"schema_version\":1,\"source\":\"thin\","
                + "\"chunk_bytes\":\(superblock.dataBlockByteCount),"
                + "\"data_blocks\":\(superblock.dataBlockCount),"
                + "\"metadata_blocks\":\(superblock.metadataBlockCount),"
                + "\"transaction_id\":\(superblock.transactionID),\"time\":\(superblock.time),"
                + "\"snapshots_left\":\(pool.snapshotBudget.left),"
                + "\"metadata_snapshot\":\(superblock.metadataSnapshot),"
                + "\"needs_check\":\(superblock.needsCheck),\"devices\":[")
        var separator = ""
        for device in pool.devices {
            try spool.append(
                "\(separator){\"device_id\":\(device.deviceID),"
                    + "\"mapped_blocks\":\(device.mappedBlocks),"
                    + "\"transaction_id\":\(device.transactionID),"
                    + "\"creation_time\":\(device.creationTime),"
                    + "\"snapshotted_time\":\(device.snapshottedTime)}")
            separator = ","
        }
        try spool.append("]}\n")
        try spool.print()
    }

    private func showXML(_ pool: ThinMetadataReader) throws {
        let xml = ThinDumpXML(pool.superblock)
        let spool = Spool()
        for device in pool.devices {
            try spool.append(xml.devicePrefix(device))
            var mappings = try pool.mappings(of: device.deviceID)
            while let run = try mappings.next() { try spool.append(xml.run(run)) }
            try spool.append(xml.deviceSuffix)
        }
        try spool.print(prefix: xml.prefix, suffix: xml.suffix)
    }
}
