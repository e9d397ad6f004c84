// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
package import Session
package import Wire

/// Why a generation was not sent, apart from what the source, the catalog and TLS report themselves.
package enum SendError: Error, CustomStringConvertible {
    /// No standby has this name here.
    case unknownReceiver(ReceiverName)
    /// Another process sends this volume to this standby.
    case busy(VolumeName)
    /// The receiver refused.
    case refused(Refusal)
    /// The receiver cannot continue an interrupted resync, which was given up.
    case outdated(Refusal)
    /// The two sides' histories do not fit.
    case lineage(Lineage.Rule, here: String, there: String)
    /// The receiver broke the protocol.
    case brokenProtocol(String)
    /// A generation waits on the standby, although its group was committed.
    case groupIncomplete
    /// The standby was promoted, and nobody said that what it holds may be lost.
    case promotedStandby
    /// The standby's tag map was to be believed, and what the two sides know of each other speaks against it.
    case untrustedMap(Lineage.Rule?, here: String, there: String)
    /// The connection ended in the middle; the next send resumes.
    case interrupted(String, acknowledgedSegments: UInt64, plannedSegments: UInt64)

    package var description: String {
        switch self {
        case .unknownReceiver(let name):
            "no standby is called \(name) here; make it known by: blockferry pair INVITATION"
        case .busy(let volume):
            "another process is sending \(volume) to this standby, or a program that it has started (lvcreate, "
                + "lvchange, lvremove) is still running"
        case .refused(let refusal): "the standby refused: \(refusal)"
        case .outdated(let refusal):
            "the standby refused: \(refusal); the interrupted resync was given up, and the next one compares anew"
        case .lineage(let rule, let here, let there):
            "\(rule.meaning) (rule \(rule.rawValue)); source: \(here); standby: \(there)"
        case .brokenProtocol(let text): "the standby broke the protocol: \(text)"
        case .groupIncomplete:
            "the standby has committed one volume of the group and not this one"
        case .promotedStandby:
            "the standby was promoted and may have been written (rule promoted): see what would be lost with --plan, "
                + "and give --overwrite-promoted if that is meant"
        case .untrustedMap(let rule, let here, let there):
            "the standby's tag map cannot be trusted, since "
                + (rule?.meaning ?? "it has no generation that this source has sent")
                + " (rule no-map): resync without --trust-map, which reads the target; source: \(here); "
                + "standby: \(there)"
        case .interrupted(let text, let done, let planned):
            "\(text); \(done) of \(planned) segments are durable on the standby, and the next send "
                + "goes on from there"
        }
    }
    /// Whether the standby has refused.
    var isRefusal: Bool {
        switch self {
        case .refused, .outdated: true
        default: false
        }
    }
}
