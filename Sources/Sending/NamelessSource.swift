// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Session
internal import TagMap
internal import Wire

/// Devices with no name but their path: a disk without a serial number, an array. After a reboot
/// the path may lead to another device; only the content shows that.
extension Sender {
    /// Number of blocks to compare.
    private static let sampledBlocks = 64
    /// Smallest number of compared blocks that proves anything.
    private static let enough = 4

    /// Why a device without a name is not the one sent so far: almost none of its blocks match what
    /// was sent. `nil` if they match, or if too few can be compared.
    func namelessProblem(_ source: any Source, _ replica: Replica) throws -> String? {
        guard source.identity.object.isEmpty, let key = replica.tagKey,
            let known = knownMap(replica.committed)
        else { return nil }
        let tagger = Tagger(known.header.algorithm, key: key)
        let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
        var random = SystemRandomNumberGenerator()
        var (compared, differing) = (0, 0)
        for sample in try known.sample(Self.sampledBlocks, using: &random)
        where !sample.entry.isZero && sample.entry != .missing {
            guard let extent = known.shape.extent(ofBlock: sample.block),
                extent.end <= source.volumeByteCount
            else { continue }
            try source.read(extent, into: memory)
            compared += 1
            let found = memory.withBytes(count: Int(extent.length)) { tagger.entry(of: $0) }
            if found != sample.entry { differing += 1 }
        }
        guard compared >= Self.enough, differing * 10 >= compared * 9 else { return nil }
        return
            "\(differing) of \(compared) blocks that were compared are not what was sent of volume \(options.volume) to "
            + "\(options.receiver) so far, and nothing names the device by which it could be told from others. Nothing was "
            + "sent, and the copy is as it was"
    }

    /// Refuses a source that is too large, or that is not the one sent so far unless `adoptsSource`
    /// allows it.
    func checkObject(_ source: any Source, _ replica: Replica) throws {
        try checkSize(source)
        guard let problem = try otherSource(source, replica) else { return }
        throw SourceError.refused(.otherSource, path: source.name, reason: problem)
    }

    /// Refuses a source that is too large for a tag map.
    func checkSize(_ source: any Source) throws {
        guard let refused = SendDecision.tooLarge(source.volumeByteCount) else { return }
        throw SourceError.refused(refused.rule, path: source.name, reason: refused.meaning)
    }

    /// Why a source is another thing than what was sent so far; `nil` if it is not, or if that is
    /// meant.
    func otherSource(_ source: any Source, _ replica: Replica) throws -> String? {
        if options.adoptsSource { return nil }
        return try otherSource(source.identity, source.name, replica)
            ?? namelessProblem(source, replica)
    }
}
