// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform

/// The volumes of a volume group at one moment, and the commands that change them.
package struct VolumeGroup: Sendable {
    package let name: String
    /// All volumes, including hidden ones.
    package let volumes: [LogicalVolume]

    /// Queries LVM.
    package init(_ name: String) throws(LVMError) {
        self.name = name
        volumes = try Self.list([name])
    }

    /// All groups of this host.
    package static func all() throws(LVMError) -> [VolumeGroup] {
        let volumes = try list([])
        var uuids: [String] = []
        for volume in volumes where !uuids.contains(volume.groupUUID) {
            uuids.append(volume.groupUUID)
        }
        return uuids.map { uuid in
            let own = volumes.filter { $0.groupUUID == uuid }
            return VolumeGroup(name: own.first?.group ?? "", volumes: own)
        }
    }

    private static func list(_ what: [String]) throws(LVMError) -> [LogicalVolume] {
        try LogicalVolume.decode(
            LVMProgram.ask(
                "lvs",
                [
                    "-a", "--reportformat", "json", "--units", "b", "--nosuffix", "-o",
                    LogicalVolume.fields.joined(separator: ","),
                ] + what
            ).text)
    }

    /// The volume of this name.
    package func volume(named name: String) -> LogicalVolume? {
        volumes.first { $0.name == name }
    }

    /// The volume with this id.
    package func volume(uuid: String) -> LogicalVolume? {
        volumes.first { $0.uuid == uuid }
    }

    // MARK: Finding

    /// Finds a volume by "vg/lv" or by any path of its device node.
    ///
    /// It identifies a node by the kernel's facts, never by its name.
    ///
    /// - Returns: `nil` if the text is the path of something that is not a logical volume.
    package static func find(
        _ text: String
    ) throws(LVMError) -> (group: VolumeGroup, volume: LogicalVolume)? {
        if text.hasPrefix("/") {
            if let status = try? File(path: text).status() {
                guard let uuid = status.device.flatMap({ BlockDevice($0).mapperUUID }),
                    uuid.hasPrefix("LVM-")
                else { return nil }
                let ids = uuid.dropFirst("LVM-".count)
                guard ids.utf8.count == 64 else {
                    throw .refused(
                        "\(text) is an internal device of LVM (\(uuid)); name the logical volume")
                }
                guard let found = try find(ids: ids) else { throw hidden(text) }
                return found
            }
            // An inactive volume has no node.
            guard text.hasPrefix("/dev/") else { return nil }
            return try find(group: String(text.dropFirst("/dev/".count)), text)
        }
        return try find(group: text, text)
    }

    /// Finds a volume by LVM's ids of its group and of itself, both without dashes.
    package static func find(
        ids: some StringProtocol
    ) throws(LVMError) -> (group: VolumeGroup, volume: LogicalVolume)? {
        let all = try all()
        func isMeant(_ volume: LogicalVolume) -> Bool {
            (volume.groupUUID + volume.uuid).filter { $0 != "-" } == ids
        }
        guard let group = all.first(where: { $0.volumes.contains(where: isMeant) }),
            let found = group.volumes.first(where: isMeant)
        else { return nil }
        return (group, found)
    }

    private static func find(
        group text: String, _ whole: String
    ) throws(LVMError) -> (group: VolumeGroup, volume: LogicalVolume)? {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, isName(parts[0]), isName(parts[1]) else { return nil }
        let group: VolumeGroup
        do { group = try VolumeGroup(String(parts[0])) } catch .command(let error) {
            // LVM exits with 5 if it does not know the name; any other error is reported.
            if case .exited(5) = error.cause {
                let node = "/dev/mapper/" + ConfiguredVolumes.mapperName(parts)
                let device = (try? File(path: node).status())?.device
                if device.flatMap({ BlockDevice($0).mapperUUID })?.hasPrefix("LVM-") == true {
                    throw hidden(node)
                }
                throw .notFound("\(whole) (\(error.message))")
            }
            throw .command(error)
        }
        guard let volume = group.volume(named: String(parts[1])) else { throw .notFound(whole) }
        return (group, volume)
    }

    private static func hidden(_ node: String) -> LVMError {
        .refused(
            "\(node) is an active logical volume, but LVM does not report it: devices/filter, global_filter or the "
                + "devices file (lvmdevices) keeps LVM from the disk that it is on")
    }

    private init(name: String, volumes: [LogicalVolume]) {
        self.name = name
        self.volumes = volumes
    }

    /// The characters that LVM allows in names.
    static func isName(_ text: Substring) -> Bool {
        !text.isEmpty && !text.hasPrefix("-") && text != "." && text != ".."
            && text.utf8.allSatisfy { byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                    || "+_.-".utf8.contains(byte)
            }
    }

    // MARK: Changing

    /// Makes a read-only snapshot of `origin`, with its tags set at creation, and activates it.
    ///
    /// LVM suspends the origin meanwhile, which freezes its file system.
    ///
    /// - Parameters:
    ///   - store: for a classic snapshot: lvcreate's arguments for its store.
    ///   - isActive: activate a thin snapshot; otherwise set the flag that prevents its activation.
    ///   - lock: held while lvcreate runs, also if this process ends.
    package static func createSnapshot(
        of origin: LogicalVolume, named name: String, tags: [String], store: [String]?,
        isActive: Bool = true, holding lock: FileLock?
    ) throws(LVMError) {
        var arguments = ["--snapshot", "--name", name, "--permission", "r", "--yes"]
        for tag in tags { arguments += ["--addtag", tag] }
        if let store {
            arguments += store
        } else {
            // Only this program activates it.
            arguments += ["--setactivationskip", "y"]
            if isActive { arguments += ["--activate", "y", "--ignoreactivationskip"] }
        }
        try Suspension.change(origin, "lvcreate", arguments + [origin.fullName], holding: lock)
    }

    /// Extends a volume to `byteCount` bytes, rounded up to an extent; never shrinks it.
    package static func extend(
        _ volume: LogicalVolume, to byteCount: UInt64, holding lock: FileLock?
    ) throws(LVMError) {
        try Suspension.change(
            volume, "lvextend", ["--yes", "--size", "\(byteCount)b", volume.fullName],
            holding: lock)
    }

    /// Activates a volume, even if it is flagged to be skipped.
    package static func activate(
        _ volume: LogicalVolume, holding lock: FileLock?
    ) throws(LVMError) {
        try Suspension.change(
            volume, "lvchange",
            ["--activate", "y", "--ignoreactivationskip", "--yes", volume.fullName],
            holding: lock)
    }

    /// Explains why a volume is not active after `activate`.
    package static func checkActive(_ volume: LogicalVolume) throws(LVMError) {
        guard volume.device == nil else { return }
        throw LVMProgram.notActivated("LVM has not activated \(volume.fullName)")
    }

    /// Deactivates a volume, unless it is open.
    package static func deactivate(
        _ volume: LogicalVolume, holding lock: FileLock?
    ) throws(LVMError) {
        try Suspension.change(
            volume, "lvchange", ["--activate", "n", "--yes", volume.fullName], holding: lock)
    }

    /// Removes a snapshot if it still has this id, this name and this tag, and is still read-only.
    ///
    /// LVM checks the condition under its own lock, so it never removes a volume that has changed
    /// meanwhile. It also refuses one in use, because it is not forced.
    package static func removeSnapshot(
        _ volume: LogicalVolume, tag: String, holding lock: FileLock?
    ) throws(LVMError) {
        var condition =
            "lv_uuid=\(volume.uuid) && lv_name=\(volume.name) && lv_tags=\"\(tag)\""
        if volume.isReadOnly { condition += " && lv_permissions=~^read-only" }
        let said = try Suspension.change(
            volume, "lvremove", ["--yes", "--select", condition, volume.group], holding: lock)
        // LVM succeeds even if no volume meets the condition.
        guard said.text.contains("successfully removed") else {
            throw .refused("\(volume.fullName) was changed just now, and was left alone")
        }
    }
}
