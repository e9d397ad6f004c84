// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import MapStore
internal import Objects
internal import Session
internal import Wire

/// Finds the changes of a source and checks that it is the right one.
extension Sender {
    /// Starting point of a delta: the source of the committed generation, and its size.
    struct Base {
        /// `nil` if the identity is unknown.
        var identity: ObjectIdentity?
        var record: GenerationRecord?
        var volumeByteCount: UInt64 { record?.head.volumeSize ?? 0 }

        init(_ replica: Replica) {
            (identity, record) = (replica.baseIdentity, replica.committed)
        }
    }

    /// Calls back with the changes since a base, or with the whole source if there is no base or no
    /// change list.
    func list(
        _ source: any Source, since base: Base?, _ proof: ChangeProof,
        _ body: (Change) throws -> Void
    ) throws {
        guard let base, proof == .list else { return try source.forEachExtent(body) }
        guard let identity = base.identity else {
            throw SourceError.noProof(
                .baseLost, reason: "nothing is known of what the last generation was made from")
        }
        // Records start on sectors; the sector that holds the old end is sent again.
        let oldSize =
            base.volumeByteCount == source.volumeByteCount
            ? base.volumeByteCount
            : base.volumeByteCount / Limits.sectorByteCount * Limits.sectorByteCount
        let sizes = VolumeSizes(older: oldSize, newer: source.volumeByteCount)
        try source.forEachChange(since: identity) { change in
            if let recorded = sizes.recorded(change) { try body(recorded) }
        }
        if sizes.hasGrown {
            try source.forEachExtent { change in
                if let behind = sizes.grown(change) { try body(behind) }
            }
        }
    }

    /// How the changes since the last generation can be determined.
    func proof(_ source: any Source, _ base: Base) throws -> ChangeProof {
        if let known = base.identity, case .different = known.relation(to: source.identity) {
            return .compare("it is another source than the last generation was made from")
        }
        return try source.proof(since: base.identity)
    }

    /// Why the whole source must be read before a delta; `nil` if that is not needed.
    func readingReason(_ proof: ChangeProof, _ known: TagMapFile?) -> String? {
        switch proof {
        case .compare(let reason): reason
        case .list: known == nil ? "the tag map of the last generation is gone" : nil
        }
    }

    /// Refuses a source other than the one sent so far, unless `adoptsSource` allows it.
    func checkObject(_ found: ObjectIdentity, _ name: String, _ replica: Replica?) throws {
        guard !options.adoptsSource, let replica,
            let problem = otherSource(found, name, replica)
        else { return }
        throw SourceError.refused(.otherSource, path: name, reason: problem)
    }

    /// The facts that differ from those of the known source. If none of them can be found any more,
    /// it counts as another source.
    private func differing(_ known: ObjectIdentity, _ found: ObjectIdentity) -> [String]? {
        switch known.relation(to: found) {
        case .same: nil
        case .different(let names): names
        case .unknown: known.object.isEmpty ? nil : known.object.keys.sorted()
        }
    }

    /// Why the source is not the one sent so far; `nil` if it is, or if that is unknown.
    func otherSource(_ found: ObjectIdentity, _ name: String, _ replica: Replica) -> String? {
        guard let known = replica.baseIdentity ?? replica.unfinishedIdentity,
            let names = differing(known, found)
        else { return nil }
        let record = replica.committed?.head ?? replica.transfer?.begin.head
        let facts = names.map { fact in
            fact == "kind"
                ? "\(known.kind.rawValue), now \(found.kind.rawValue)"
                : "\(fact) \(known.object[fact] ?? ""), now \(found.object[fact] ?? "")"
        }.joined(separator: "; ")
        return
            "volume \(options.volume) on \(options.receiver) was sent from another source so far "
            + "(\(record?.sourceIdentity ?? "unknown"); it had \(facts)). Nothing was sent, and the copy is as it "
            + "was"
    }
}
