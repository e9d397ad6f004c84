// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CDiskTrace

/// One thing that was done to the files below the recorded directory, in the order in which it was done.
enum Operation {
    case open(handle: UInt64, path: String, made: Bool)
    case write(handle: UInt64, offset: Int, bytes: [UInt8])
    case truncate(handle: UInt64, byteCount: Int)
    case punch(handle: UInt64, offset: Int, byteCount: Int)
    case sync(handle: UInt64)
    case rename(String, to: String)
    case unlink(String)
    case mkdir(String)
    /// A search for data or holes reads everything.
    case read(handle: UInt64)
    case mark(UInt64)
}

/// The recorder, of which there is one in the process.
enum Trace {
    /// Records what `body` does below a directory.
    static func record(_ root: String, _ body: () throws -> Void) rethrows -> [Operation] {
        unsafe disktrace_start(root)
        defer { disktrace_stop() }
        try body()
        return taken()
    }

    /// What was recorded until now.
    static func taken() -> [Operation] {
        (0..<disktrace_count()).compactMap { index in
            // SAFETY: the operation is valid until the next start, and is copied here.
            let raw = unsafe disktrace_operation(index).pointee
            let handle = unsafe raw.handle
            let path = unsafe raw.path.map { unsafe String(cString: $0) } ?? ""
            switch unsafe disktrace_kind(raw.kind) {
            case DISKTRACE_OPEN:
                return .open(handle: handle, path: path, made: unsafe raw.made != 0)
            case DISKTRACE_WRITE:
                let bytes = unsafe [UInt8](
                    UnsafeBufferPointer(start: raw.data, count: Int(raw.length)))
                return .write(handle: handle, offset: Int(unsafe raw.offset), bytes: bytes)
            case DISKTRACE_TRUNCATE:
                return .truncate(handle: handle, byteCount: Int(unsafe raw.length))
            case DISKTRACE_PUNCH:
                return .punch(
                    handle: handle, offset: Int(unsafe raw.offset),
                    byteCount: Int(unsafe raw.length))
            case DISKTRACE_SYNC: return .sync(handle: handle)
            case DISKTRACE_RENAME:
                return .rename(path, to: unsafe raw.second.map { unsafe String(cString: $0) } ?? "")
            case DISKTRACE_UNLINK: return .unlink(path)
            case DISKTRACE_MKDIR: return .mkdir(path)
            case DISKTRACE_READ: return .read(handle: handle)
            case DISKTRACE_MARK: return .mark(unsafe raw.length)
            default: return nil
            }
        }
    }
}
