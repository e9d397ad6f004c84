// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Wire

/// Why a target cannot be used or is no longer trustworthy.
package enum TargetError: RuledError, Equatable, Sendable, CustomStringConvertible {
    /// The path does not exist.
    case missing(String)
    /// Mounted, stacked under another device, attached to a loop device, or open for writing elsewhere.
    case inUse(String)
    /// The device is suspended under this device-mapper name.
    case suspended(String, device: String)
    /// The device is read-only.
    case readOnly(String)
    /// Neither a block device nor a regular file.
    case wrongKind(String)
    /// Not the registered object; lists the facts that differ.
    case foreign(String, registered: String, found: String)
    /// It belongs to another target, or lies above or below one.
    case taken(String, by: String)
    /// It has content that the operator has not allowed to be overwritten.
    case occupied(String, by: String, volume: VolumeName)
    /// Almost no block matches what was committed; `compared` is 0 if there are no counts.
    case replaced(String, differing: Int, compared: Int)
    /// The device is smaller than what must be written.
    case tooSmall(String, byteCount: UInt64, needed: UInt64)
    /// Reading, writing or flushing failed; the content is no longer known.
    case failed(SystemCallError)

    package var description: String {
        switch self {
        case .missing(let path): "\(path) does not exist"
        case .inUse(let path):
            "\(path) is in use: mounted, part of another device, or open elsewhere"
        case .suspended(let path, let device):
            "\(path) is suspended (device-mapper device \(device)): who reads it or writes it waits. If nobody is at work on "
                + "it: dmsetup resume \(device)"
        case .readOnly(let path): "\(path) is read-only"
        case .wrongKind(let path): "\(path) is neither a block device nor a regular file"
        case .foreign(let path, let registered, let found):
            "\(path) is not the target that was registered: it has \(found), not \(registered)"
        case .taken(let path, let owner): "\(path) cannot be a target: \(owner)"
        case .occupied(let path, let content, _): "\(path) holds \(content)"
        case .replaced(let path, _, 0):
            "\(path) does not hold the copy, as far as that can be told"
        case .replaced(let path, let differing, let compared):
            "\(path) holds something else: \(differing) of \(compared) blocks that were compared are not the copy's"
        case .tooSmall(let path, let byteCount, let needed):
            "the target \(path) has \(byteCount) bytes, the volume \(needed)"
        case .failed(let error): error.description
        }
    }

    package var refusalRule: RefusalRule? {
        switch self {
        case .missing: .missing
        case .inUse: .inUse
        case .suspended: .suspended
        case .readOnly: .readOnly
        case .wrongKind, .foreign: .foreign
        case .taken: .targetTaken
        case .occupied: .occupied
        case .replaced: .targetReplaced
        case .tooSmall: .tooSmall
        case .failed(let error): error.isNoSpace ? .space : .storage
        }
    }

    package var words: [String: String] {
        switch self {
        case .missing(let path), .inUse(let path), .readOnly(let path), .wrongKind(let path),
            .foreign(let path, _, _), .taken(let path, _), .replaced(let path, _, _):
            ["PATH": path]
        case .suspended(let path, let device): ["PATH": path, "DEVICE": device]
        case .occupied(let path, _, let volume): ["PATH": path, "VOLUME": volume.text]
        case .tooSmall(let path, _, let needed): ["PATH": path, "BYTES": "\(needed)"]
        case .failed: [:]
        }
    }

    /// Whether its content, or the whole target, may be lost permanently rather than be unavailable
    /// for now.
    package var isLoss: Bool {
        switch self {
        case .missing, .wrongKind, .foreign, .replaced, .tooSmall: true
        case .failed(let error): !error.isNoSpace
        case .inUse, .suspended, .readOnly, .taken, .occupied: false
        }
    }

    /// Whether space was lacking, so that more space solves the problem.
    package var isLackOfRoom: Bool {
        if case .failed(let error) = self { return error.isNoSpace }
        return false
    }
}
