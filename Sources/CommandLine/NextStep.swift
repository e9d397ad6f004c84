// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Wire

/// The operator's next step for each rule: the only place that names commands and options for it.
/// The manual's table (docs/OPERATIONS.md 8) is checked against it.
package enum NextStep {
    /// The next step as in the manual. Words in capitals are placeholders: VOLUME, PEER, SOURCE,
    /// and VERB for the command that was given.
    package static func text(_ rule: RefusalRule) -> String {
        let resync = "blockferry resync SOURCE --to PEER --volume VOLUME"
        let again = "blockferry VERB SOURCE --to PEER --volume VOLUME"
        return switch rule {
        case .promoted:
            "if the copy may be replaced, on the standby: blockferryd demote VOLUME; then here: \(resync) --overwrite-promoted"
        case .notDemoted:
            "if the copy may be replaced, on the standby: blockferryd demote VOLUME; then the same command again"
        case .notEmpty:
            "restore this host's state directory, if it was lost; else compare both sides: \(resync)"
        case .targetWentBack:
            "restore the standby's newer state and target, if there is one; else compare both sides: \(resync)"
        case .diverged:
            "on the standby: blockferryd status VOLUME; state diverged: find out who wrote to the target; any other: the histories "
                + "differ, and the copy may be the newer one, which promote keeps; to make the copy like this source: \(resync)"
        case .sizeShrunk: "if that is meant: \(again) --allow-shrink"
        case .suspect:
            "on the standby: blockferryd status VOLUME says what failed; repair the disk, then here: \(resync)"
        case .noMap: "compare what the target really holds, without --trust-map: \(resync)"
        case .notCompared: "compare again: \(resync)"
        case .prepared:
            "send the whole group again; or give the prepared generation up by sending this volume alone: blockferry send "
                + "SOURCE --to PEER --volume VOLUME"
        case .baseMissing, .parentMismatch, .numberMismatch:
            "see what each side holds: blockferry explain --to PEER --volume VOLUME"
        case .missing:
            "on the standby: activate or mount what PATH is on; if the copy is elsewhere now: blockferryd retarget VOLUME NEWPATH"
        case .inUse:
            "on the standby: unmount PATH, detach what is stacked on it, end what has it open (lsblk PATH; fuser -v PATH)"
        case .suspended: "if nobody is at work on it, on the standby: dmsetup resume DEVICE"
        case .readOnly:
            "on the standby: make PATH writable (lvchange --permission rw, blockdev --setrw, mount -o remount,rw; for the "
                + "service: ReadWritePaths= in a drop-in, and restart it)"
        case .foreign:
            "on the standby: put the right one at PATH; if the copy is elsewhere now: blockferryd retarget VOLUME NEWPATH"
        case .tooSmall:
            "on the standby: make PATH that large (a logical volume: lvextend -L BYTESb PATH); then the same command again"
        case .targetReplaced:
            "on the standby: put the right one at PATH; or make what is there the copy: blockferryd retarget VOLUME PATH "
                + "--for-resync, then on the source: \(resync)"
        case .targetTaken: "take another target: blockferryd invite VOLUME --target NEWPATH"
        case .occupied:
            "if what PATH holds may be replaced, on the standby: blockferryd invite VOLUME --target PATH --overwrite"
        case .otherSource:
            "find out which is the right one; if it is SOURCE: \(again) --adopt-source"
        case .baseLost, .listIncomplete: "compare both sides: \(resync)"
        case .storeOverflowed:
            "compare both sides, and make the next store larger: \(resync) --cow-size SIZE"
        case .snapshotOverflowed: "the same with a larger store: \(again) --cow-size SIZE"
        case .poolUnsound:
            "repair the pool (lvconvert --repair); if the base is refused then: \(resync)"
        case .poolExhausted:
            "move the volume to a new pool, or restore the pool's metadata with its times reset (manual, 3)"
        case .noList:
            "name two snapshots of one volume, the older one first: of logical volumes two that are active, of images their own "
                + "stores"
        case .notThatGeneration:
            "send first, then verify: blockferry send SOURCE --to PEER --volume VOLUME"
        case .sourceInUse:
            "unmount SOURCE or end what has it open, or send a snapshot of it; to send it as it is: \(again) --allow-in-use"
        case .sourceChanged: "end what writes SOURCE, or send a snapshot of it; then: \(again)"
        case .sourceIsTarget:
            "wait until the standby is done (blockferryd status); or send a generation that it keeps (blockferryd keep)"
        case .unknownPeer:
            "see which there are: blockferry peers; to make one known: blockferry pair"
        case .interrupted: "the same command goes on: \(again)"
        case .groupIncomplete: "send the whole group again"
        case .outputExists: "give another --output, or remove PATH"
        case .exported:
            "ask the standby: blockferry send SOURCE --to PEER --volume VOLUME; or say it: blockferry export SOURCE --to PEER "
                + "--volume VOLUME --output FILE --imported ID (which blockferryd import printed), or --discard"
        case .inDoubt: "ask the standby: blockferry send SOURCE --to PEER --volume VOLUME"
        case .unknownExport: "see which are waiting: blockferry status --json"
        case .unfinishedResync: "finish it: \(resync)"
        case .exportCut: "the same command again"
        case .noExportKey:
            "it comes with the next contact: blockferry peers --contact PEER; a standby of an older version has none: upgrade it"
        case .badExportKey:
            "on the standby: move export-key.pem away and restart blockferryd; then here: blockferry peers --contact PEER"
        case .badFormat:
            "destroy the file, and make another one on the source: blockferry export SOURCE --to PEER --volume VOLUME --output "
                + "FILE --discard"
        case .laterFormat: "upgrade this standby, or export again with the version that runs here"
        case .otherKey:
            "restore export-key.pem on the standby from a backup; or, on the source: blockferry peers --contact PEER, then "
                + "blockferry export SOURCE --to PEER --volume VOLUME --output FILE --discard"
        case .badExport, .badSignature:
            "copy the file again; if it is the same, export again: blockferry export"
        case .otherPeer:
            "see which host the volume belongs to: blockferryd volumes, blockferryd peers"
        case .otherVolume: "import it into its own volume: blockferryd import OTHER FILE"
        case .otherStandby: "import it on the standby whose id it names: blockferryd id"
        case .noPeer: "pair the volume with its source host: blockferryd invite VOLUME"
        case .unknownVolume: "see which there are: blockferryd volumes"
        case .alreadyPromoted:
            "nothing is to be done; if a source may replace it again: blockferryd demote VOLUME"
        case .noGeneration:
            "on the source: blockferry send SOURCE --to PEER --volume VOLUME; a copy that is not trusted: \(resync)"
        case .notApplied:
            "mend the target or make room, then the same command again; if the copy is elsewhere now: blockferryd retarget "
                + "VOLUME NEWPATH"
        case .notWritten:
            "if PATH is the target: blockferryd retarget VOLUME PATH; to write the generation whatever is there: blockferryd "
                + "promote VOLUME --without-check; to give it up and resync: blockferryd retarget VOLUME PATH --for-resync "
                + "--give-up-generation"
        case .notTheCopy:
            "put the right target there, or mend the copy, on the source: \(resync); in an emergency: blockferryd promote VOLUME "
                + "--without-check"
        case .targetLost:
            "put the right target there, if it can be had; else make a volume of the snapshot, and that the target: lvcreate "
                + "--snapshot --setactivationskip n --permission rw --name NEWNAME SNAPSHOT, blockferryd retarget VOLUME "
                + "/dev/GROUP/NEWNAME, blockferryd promote VOLUME"
        case .onlyInLog:
            "finish it: blockferryd promote VOLUME, or blockferryd retarget VOLUME NEWPATH; to give it up: blockferryd retarget "
                + "VOLUME NEWPATH --for-resync --give-up-generation"
        case .notRetargeted:
            "to make it the copy by a resync: blockferryd retarget VOLUME PATH --for-resync; if a committed generation may "
                + "replace what it holds: --overwrite"
        case .notPromoted: "nothing is to be done, on the source: \(resync)"
        case .cannotKeep: "move the copy to an LVM thin volume: blockferryd retarget VOLUME NEWPATH"
        case .noTransfer:
            "nothing is to be done; where the volume stands: blockferryd status VOLUME"
        case .unreachable:
            "see its address: blockferry peers; on the standby: systemctl status blockferryd; then the same command again"
        case .keyNotAccepted:
            "restore the identity.pem that was paired, on the side that lost it; or pair anew, on the standby: blockferryd unpair "
                + "ID, blockferryd invite VOLUME; then here: blockferry pair"
        case .busy, .fenced, .sessions, .stopping: "the same command again, later"
        case .metadataSnapshot:
            "wait for the program that uses it; if nobody does: dmsetup message DEVICE 0 release_metadata_snap"
        case .notAuthorised:
            "on the standby: blockferryd volumes shows whose it is; to pair it with this host: blockferryd invite VOLUME"
        case .invitation:
            "on the standby: blockferryd volumes says whose key the volume has; if that is not to have it: blockferryd unpair ID; "
                + "then a new invitation: blockferryd invite VOLUME"
        case .used:
            "if that key is not yours, on the standby: blockferryd unpair ID; then a new invitation: blockferryd invite VOLUME"
        case .space: "make room, then the same command again"
        case .stateReadOnly:
            "find out why (dmesg); then mount it read-write, and the same command again"
        case .storage:
            "on the standby: blockferryd status VOLUME, journalctl -u blockferryd; repair the disk, then again"
        case .corrupt: "the same command again"
        case .rootMismatch: "the same command again; if it ends so once more: \(resync)"
        case .groupMismatch: "send the whole group again"
        case .limit: "see the limits in the specification (Protocol/Specification.md 10)"
        case .unsupportedVersion: "install the newer version on both hosts"
        case .malformed:
            "install the same version on both hosts; if they have it, report this with both journals"
        case .fault: "report this, with the output of: blockferry status --json, and both journals"
        }
    }

    /// The next step for one case. Placeholders without a value stay.
    ///
    /// - Parameter words: values for the placeholders, each quoted for a shell.
    package static func text(_ rule: RefusalRule, _ words: [String: String]) -> String {
        var result = ""
        var word = ""
        func flush() {
            result += words[word] ?? word
            word = ""
        }
        for character in text(rule) {
            if character.isLetter, character.isUppercase {
                word.append(character)
            } else {
                flush()
                result.append(character)
            }
        }
        flush()
        return result
    }

    /// Quotes a text as one word for a shell.
    package static func quoted(_ text: String) -> String {
        let isPlain = text.unicodeScalars.allSatisfy {
            $0.properties.isAlphabetic || ("0"..."9").contains($0)
                || "/._-+:@,=%".unicodeScalars.contains($0)
        }
        return isPlain && !text.isEmpty
            ? text : "'" + text.replacing("'", with: "'\\''") + "'"
    }
}

/// A command of the standby for one volume.
package protocol OneVolumeCommand: NamingCommand {
    var volume: VolumeName { get }
}

extension OneVolumeCommand {
    package var words: [String: String] { ["VOLUME": volume.text] }
}

/// A command that knows the subject of its errors.
package protocol NamingCommand {
    /// Values for the placeholders of a next step: VERB, SOURCE, PEER, VOLUME, PATH; each quoted
    /// for a shell.
    var words: [String: String] { get }
}
