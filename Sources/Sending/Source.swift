// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import LVM
package import Objects
package import Platform
package import Wire

/// Why a source cannot be read, or cannot prove what changed.
package enum SourceError: RuledError, Sendable, CustomStringConvertible {
    /// A file or device could not be read.
    case unreadable(SystemCallError)
    /// The metadata is damaged, or does not hold what was asked for.
    case invalid(path: String, reason: String)
    /// There is no proof of what changed since the base; `reason` says what is missing.
    case noProof(RefusalRule, reason: String)
    /// It must not be sent now, or not as this volume; the rule says why.
    case refused(RefusalRule, path: String, reason: String)
    /// A hook failed.
    case hook(CommandError)

    package var description: String {
        switch self {
        case .unreadable(let error): error.description
        case .invalid(let path, let reason): "\(path): \(reason)"
        case .noProof(let rule, let reason): "\(reason) (rule \(rule.rawValue))"
        case .refused(let rule, let path, let reason):
            "\(path): \(reason) (rule \(rule.rawValue))"
        case .hook(let error): error.description
        }
    }
}

extension SourceError {
    package var refusalRule: RefusalRule? {
        switch self {
        case .noProof(let rule, _), .refused(let rule, _, _): rule
        case .unreadable, .invalid, .hook: nil
        }
    }

    package var words: [String: String] {
        if case .refused(_, let path, _) = self { return ["PATH": path] }
        return [:]
    }

    /// Turns the error of a call into one of a source.
    static func reading<Value>(
        _ body: () throws(SystemCallError) -> Value
    ) throws(SourceError) -> Value {
        do throws(SystemCallError) { return try body() } catch { throw .unreadable(error) }
    }
}

extension LVMError: RuledError {
    package var refusalRule: RefusalRule? {
        switch self {
        case .busy: .busy
        case .metadataSnapshotHeld: .metadataSnapshot
        case .command, .notFound, .refused, .unexpected, .system: nil
        }
    }

    package var words: [String: String] {
        if case .metadataSnapshotHeld(_, let pool) = self { return ["DEVICE": pool] }
        return [:]
    }
}

/// How a source can tell what changed since a base.
package enum ChangeProof: Equatable, Sendable {
    /// `Source.forEachChange` names all that can differ.
    case list
    /// Nothing names it; the text says why. All content is read and compared with the tag map of what was sent.
    case compare(String)
}

/// A frozen point in time of a volume that can be read and compared with an earlier one.
///
/// Opening one flushes it, so that what is read from it is on the source's own disk.
package protocol Source: AnyObject {
    /// What people call it, in messages: "vg/home", or a path.
    var name: String { get }
    /// What it is, in words; goes into the generation record.
    var summary: String { get }
    /// What it is, and what proves its content, in facts: kept as the base of the next generation.
    var identity: ObjectIdentity { get }
    /// The point in time, nanoseconds since 1970-01-01 UTC, as far as it can be known.
    var time: UInt64 { get }
    /// Bytes.
    var volumeByteCount: UInt64 { get }

    /// Whether it is the volume itself, as it is now, and not what was kept of it.
    var isOfNow: Bool { get }

    /// How it can tell what changed since a base; nil is a base that nothing is known of.
    ///
    /// Throws `SourceError.noProof` where somebody has to decide.
    func proof(since base: ObjectIdentity?) throws -> ChangeProof

    /// Every byte of the volume, in order and without a gap.
    func forEachExtent(_ body: (Change) throws -> Void) throws

    /// What may differ from a base for which `proof` has given a list, in order: exact or too much, never too little.
    ///
    /// Throws `SourceError.noProof` if that cannot be known for certain.
    func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws

    /// Reads content of at most 1 MiB that lies inside the volume.
    func read(_ extent: Extent, into memory: AlignedBuffer) throws

    /// Called after the last read and before the generation is committed: flushes the source once more, and throws if
    /// what was read may not be the point in time after all.
    func confirm() throws
}

extension Source {
    package var isOfNow: Bool { false }

    package func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        throw SourceError.noProof(.noList, reason: "nothing records what changes in \(name)")
    }
}
