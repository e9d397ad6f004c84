// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// LVM's programs, with our settings for everything that shapes their output.
enum LVMProgram {
    /// Every setting of lvm.conf that shapes a report or a message, at its default value; what the
    /// command line sets is not included. Changing any of them changes what is parsed: the
    /// separator of tags, a number instead of a word, a line without its prefix.
    static let settings = ["--config", reporting]

    /// The same settings for commands that change a group, without a file in LVM's archive for each
    /// change: a send makes four, millions a month, which would bury the operator's own. LVM's
    /// backup of the group stays up to date. `BLOCKFERRY_LVM_ARCHIVE=1` in the environment leaves
    /// the archive to lvm.conf.
    static let changing =
        Process.environment("BLOCKFERRY_LVM_ARCHIVE") == "1"
        ? settings : ["--config", reporting + " backup{archive=0}"]

    private static let reporting =
        "report{compact_output=0 compact_output_cols=\"\" aligned=1 buffered=1 headings=1 separator=\" \" "
        + "list_item_separator=\",\" prefixes=0 quoted=1 columns_as_rows=0 binary_values_as_numeric=0 "
        + "output_format=\"basic\" time_format=\"%s\" mark_hidden_devices=1 two_word_unknown_device=0} "
        + "log{prefix=\"\" command_names=0 indent=0 silent=0 verbose=0 report_command_log=0} "
        + "global{units=\"b\" suffix=0 si_unit_consistency=1}"

    /// How long a report may take: it waits while another program holds a group's lock.
    private static let patience = 60

    /// Runs a command that only reports.
    static func ask(_ program: String, _ arguments: [String]) throws(LVMError) -> Command.Output {
        do throws(CommandError) {
            return try Command.run(program, arguments, settings: settings, seconds: patience)
        } catch {
            if case .timedOut = error.cause { throw locked(error) }
            throw explained(error)
        }
    }

    /// Runs a command that changes something, and waits for its end.
    static func change(
        _ program: String, _ arguments: [String], holding lock: FileLock?
    ) throws(CommandError) -> Command.Output {
        try Command.change(program, arguments, settings: changing, holding: lock)
    }

    /// Explains a failure whose message from LVM is not helpful.
    static func explained(_ error: CommandError) -> LVMError {
        let text = error.message
        if text.contains("Multiple VGs found with the same name") {
            return .refused(
                "two volume groups have the same name, so that LVM takes neither (\(text)). See their ids with: "
                    + "vgs -o vg_name,vg_uuid; then give one another name: vgrename UUID NEWNAME")
        }
        // With global/wait_for_locks=0, LVM does not wait for the lock.
        if text.contains("Can't get lock for") { return locked(error) }
        if text.contains("activation filter") || text.contains("volume_list") {
            return notActivated("\(error)")
        }
        if let (pool, id) = orphan(in: text) {
            return .refused(
                "\(error). The thin pool \(pool) holds a device with the ID \(id) that belongs to no volume of LVM, and LVM "
                    + "gives that ID next. If nobody needs what it holds, delete it with: dmsetup message \(pool) 0 "
                    + "'delete \(id)'")
        }
        return .command(error)
    }

    /// Parses "Thin pool NAME (254:2) already contain thin device with device_id 3." (LVM 2.03,
    /// libdm-deptree.c).
    private static func orphan(in text: String) -> (pool: Substring, id: UInt32)? {
        let parts = text.split(
            separator: "already contain thin device with device_id ", maxSplits: 1)
        guard parts.count == 2, let id = UInt32(parts[1].prefix { $0.isASCII && $0.isNumber }),
            let name = parts[0].split(separator: "Thin pool ").last,
            let pool = name.split(separator: " ").first, VolumeGroup.isName(pool)
        else { return nil }
        return (pool, id)
    }

    private static func locked(_ error: CommandError) -> LVMError {
        .busy(
            "\(error). Another program has the lock of a volume group; see which with: fuser -v /run/lock/lvm/*"
        )
    }

    /// The error for a volume that LVM was told to activate and that is not active.
    static func notActivated(_ what: String) -> LVMError {
        .refused(
            "\(what). activation/volume_list or read_only_volume_list in lvm.conf keeps LVM from activating snapshots of "
                + "this group: add the group or the tag @blockferry there")
    }
}
