// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import LVM
package import Objects
package import Platform
package import Wire

/// Why a source cannot be read, or cannot prove its changes.
package enum SourceError: RuledError, Sendable, CustomStringConvertible {
    /// A file or device could not be read.
    case unreadable(SystemCallError)
    /// The metadata is damaged or lacks what was requested.
    case invalid(path: String, reason: String)
    /// No proof of the changes since the base exists; `reason` names what is missing.
    case noProof(RefusalRule, reason: String)
    /// The source must not be sent now, or not as this volume; the rule says why.
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

    /// Turns a system call's error into a source's error.
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

/// How a source proves its changes since a base.
package enum ChangeProof: Equatable, Sendable {
    /// `Source.forEachChange` names everything that can differ.
    case list
    /// The source has no change list, for this reason. All content is read and compared with the
    /// tag map of what was sent.
    case compare(String)
}

/// A frozen point in time of a volume that can be read and compared with an earlier one.
///
/// Opening a source flushes it, so the content read from it is on the source's own disk.
package protocol Source: AnyObject {
    /// Name for messages: "vg/home", or a path.
    var name: String { get }
    /// Description of the source for the generation record.
    var summary: String { get }
    /// Facts that identify the source and prove its content; kept as the base of the next
    /// generation.
    var identity: ObjectIdentity { get }
    /// The point in time in nanoseconds since 1970-01-01 UTC, as exactly as it is known.
    var time: UInt64 { get }
    /// Size of the volume in bytes.
    var volumeByteCount: UInt64 { get }

    /// Whether the source is the volume itself as it is now, not a snapshot or an image of it.
    var isOfNow: Bool { get }

    /// How the source proves its changes since a base; `nil` stands for an unknown base.
    ///
    /// Throws `SourceError.noProof` if a person must decide.
    func proof(since base: ObjectIdentity?) throws -> ChangeProof

    /// Every byte of the volume, in order and without gaps.
    func forEachExtent(_ body: (Change) throws -> Void) throws

    /// What may differ from a base for which `proof` returned a list, in order: exact or too much,
    /// never too little.
    ///
    /// Throws `SourceError.noProof` if that is not certain.
    func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws

    /// Reads content of at most 1 MiB inside the volume.
    func read(_ extent: Extent, into memory: AlignedBuffer) throws

    /// Called after the last read and before the generation is committed. Flushes the source again,
    /// and throws if the content read may not be the point in time.
    func confirm() throws
}

extension Source {
    package var isOfNow: Bool { false }

    package func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        throw SourceError.noProof(.noList, reason: "nothing records what changes in \(name)")
    }
}
