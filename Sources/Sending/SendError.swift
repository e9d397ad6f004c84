// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
package import Session
package import Wire

/// Why a generation was not sent, apart from errors of the source, the catalog and TLS.
package enum SendError: RuledError, CustomStringConvertible {
    /// No standby has this name on this host.
    case unknownReceiver(ReceiverName)
    /// The standby has another name on this host.
    case otherName(ReceiverName, known: ReceiverName)
    /// Another process is sending this volume to this standby.
    case busy(VolumeName)
    /// The receiver refused.
    case refused(Refusal)
    /// The receiver cannot continue an interrupted resync, which was dropped.
    case outdated(Refusal)
    /// The two sides' histories do not fit.
    case lineage(Lineage.Rule, here: String, there: String)
    /// The receiver's version cannot take the volume's name.
    case unknownName(VolumeName)
    /// The receiver broke the protocol.
    case brokenProtocol(String)
    /// The local state contradicts itself.
    case fault(String)
    /// A generation still waits on the standby although its group was committed.
    case groupIncomplete
    /// The standby was promoted, and the operator has not allowed overwriting it.
    case promotedStandby
    /// The standby's tag map was to be used, but the two sides' knowledge of each other contradicts
    /// it.
    case untrustedMap(Lineage.Rule?, here: String, there: String)
    /// The connection was cut; the next send resumes.
    case interrupted(String, acknowledgedSegments: UInt64, plannedSegments: UInt64)

    package var description: String {
        switch self {
        case .unknownReceiver(let name):
            "no standby is called \(name) here"
        case .otherName(let name, let known):
            "this standby is called \(known) here, and a key has one name: pair with it as \(known), or rename it first; \(name) was "
                + "not added, and the invitation was not used"
        case .busy(let volume):
            "another process is sending \(volume) to this standby, or a program that it has started (lvcreate, "
                + "lvchange, lvremove) is still running"
        case .refused(let refusal): "the standby refused: \(refusal)"
        case .outdated(let refusal):
            "the standby refused: \(refusal); the interrupted resync was given up, and the next one compares anew"
        case .lineage(let rule, let here, let there):
            "\(rule.meaning) (rule \(rule.rawValue)); source: \(here); standby: \(there)"
        case .unknownName(let volume):
            "the standby's version takes no volume of the name \(volume): there a name has a-z, 0-9, '.', '_', '-' alone, and "
                + "begins with a letter or digit; nothing was sent"
        case .brokenProtocol(let text): "the standby broke the protocol: \(text)"
        case .fault(let text): "a fault of this program: \(text); nothing was changed"
        case .groupIncomplete:
            "the standby has committed one volume of the group and not this one"
        case .promotedStandby:
            "\(RefusalRule.promoted.meaning) (rule promoted)"
        case .untrustedMap(let rule, let here, let there):
            "the standby's tag map cannot be trusted, since "
                + (rule?.meaning ?? "it has no generation that this source has sent")
                + " (rule no-map); source: \(here); standby: \(there)"
        case .interrupted(let text, let done, let planned):
            "\(text); \(done) of \(planned) segments are durable on the standby, and the next send "
                + "goes on from there"
        }
    }
    package var refusalRule: RefusalRule? {
        switch self {
        case .unknownReceiver: .unknownPeer
        case .otherName: nil
        case .busy: .busy
        case .refused(let refusal), .outdated(let refusal): refusal.refusalRule
        case .lineage(let rule, _, _): rule
        case .unknownName: .unsupportedVersion
        case .brokenProtocol: .malformed
        case .fault: .fault
        case .groupIncomplete: .groupIncomplete
        case .promotedStandby: .promoted
        case .untrustedMap: .noMap
        case .interrupted: .interrupted
        }
    }

    package var words: [String: String] {
        switch self {
        case .refused(let refusal), .outdated(let refusal): refusal.words
        default: [:]
        }
    }

    /// The rule by which this side refuses to continue from what the standby holds.
    var lineageRule: RefusalRule? {
        switch self {
        case .lineage(let rule, _, _): rule
        case .promotedStandby: .promoted
        default: nil
        }
    }

    /// Whether the standby answered with a refusal.
    var isRefusal: Bool {
        switch self {
        case .refused, .outdated: true
        default: false
        }
    }
}
