// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Wire

/// Why a tag map cannot be used.
package enum MapError: RuledError, Sendable, CustomStringConvertible {
    /// Reading, writing or flushing failed.
    case failed(SystemCallError)
    /// The map is missing, or its own digests do not match it.
    case damaged(String, reason: String)

    static func damaged(_ path: String, _ error: WireError) -> MapError {
        .damaged(path, reason: "\(error)")
    }

    package var refusalRule: RefusalRule? {
        if case .failed(let error) = self, error.isNoSpace { return .space }
        return nil
    }

    /// The reason as Protocol/Vectors names it, and the file.
    static func damaged(
        _ path: String, _ place: String, _ reason: WireError.Reason
    ) -> MapError {
        .damaged(path, WireError(place, reason))
    }

    package var description: String {
        switch self {
        case .failed(let error): error.sentence
        case .damaged(let path, let reason): "the tag map \(path) is damaged: \(reason)"
        }
    }
}

/// Turns a failed system call into a map's error.
func system<Value>(_ body: () throws(SystemCallError) -> Value) throws(MapError) -> Value {
    do { return try body() } catch { throw .failed(error) }
}
