// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// LVM's programs, with settings of ours in place of the host's where those shape what is printed.
enum LVMProgram {
    /// Every setting of lvm.conf that shapes a report or a message, as a new LVM has it; what a command line says besides
    /// is not here. Changed, each of them makes something else of what is read: another sign between tags, a number for a
    /// word, a line without its prefix.
    static let settings = ["--config", reporting]

    /// The same for what changes a group, without a file in LVM's archive for each change: a send makes four, millions a month,
    /// among which the operator's own are not found any more. LVM's backup of the group stays up to date. An environment with
    /// `BLOCKFERRY_LVM_ARCHIVE=1` leaves the archive to lvm.conf.
    static let changing =
        Process.environment("BLOCKFERRY_LVM_ARCHIVE") == "1"
        ? settings : ["--config", reporting + " backup{archive=0}"]

    private static let reporting =
        "report{compact_output=0 compact_output_cols=\"\" aligned=1 buffered=1 headings=1 separator=\" \" "
        + "list_item_separator=\",\" prefixes=0 quoted=1 columns_as_rows=0 binary_values_as_numeric=0 "
        + "time_format=\"%s\" mark_hidden_devices=1 two_word_unknown_device=0} "
        + "log{prefix=\"\" command_names=0 indent=0 silent=0 verbose=0 report_command_log=0} "
        + "global{units=\"b\" suffix=0 si_unit_consistency=1}"

    /// How long a report may take: it waits while another program has the lock of a group.
    private static let patience = 60

    /// Runs one that only asks.
    static func ask(_ program: String, _ arguments: [String]) throws(LVMError) -> Command.Output {
        do throws(CommandError) {
            return try Command.run(program, arguments, settings: settings, seconds: patience)
        } catch {
            if case .timedOut = error.cause {
                throw .busy(
                    "\(error). Another program has had the lock of a volume group for that long; see which with: "
                        + "fuser -v /run/lock/lvm/*")
            }
            throw explained(error)
        }
    }

    /// Runs one that changes something, and waits for its end.
    static func change(
        _ program: String, _ arguments: [String], holding lock: FileLock?
    ) throws(CommandError) -> Command.Output {
        try Command.change(program, arguments, settings: changing, holding: lock)
    }

    /// What a failure means, where LVM's own words lead nowhere.
    static func explained(_ error: CommandError) -> LVMError {
        let text = error.message
        if text.contains("Multiple VGs found with the same name") {
            return .refused(
                "two volume groups have the same name, so that LVM takes neither (\(text)). See their ids with: "
                    + "vgs -o vg_name,vg_uuid; then give one another name: vgrename UUID NEWNAME")
        }
        if text.contains("activation filter") || text.contains("volume_list") {
            return .refused(
                "\(error). activation/volume_list or read_only_volume_list in lvm.conf keeps LVM from activating snapshots of "
                    + "this group: add the group or the tag @blockferry there")
        }
        if text.contains("message ioctl"), text.contains("File exists") {
            return .refused(
                "\(error). The thin pool has a device of which LVM does not know, under the id that LVM gives next; see its "
                    + "devices with: thin_dump --format human_readable, and give the pool's transactions a check"
            )
        }
        return .command(error)
    }
}
