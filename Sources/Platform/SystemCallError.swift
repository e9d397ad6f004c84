// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A failed system call with its subject and error number.
package struct SystemCallError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Name of the call, such as "pwrite".
    package let call: String
    /// The value of `errno`.
    package let code: Int32
    /// Subject of the call, such as "/dev/vg0/standby at byte 1048576".
    package let subject: String

    /// Makes the error from an error number.
    package init(_ call: String, _ subject: String, code: Int32) {
        self.call = call
        self.code = code
        self.subject = subject
    }

    /// Makes the error from `errno`; no other call may come in between.
    package init(_ call: String, _ subject: String) {
        self.init(call, subject, code: errno)
    }

    /// The system's text for the error number.
    package var reason: String {
        // SAFETY: strerror returns a C string that stays valid until the next call on this thread.
        unsafe String(cString: strerror(code))
    }

    package var description: String { "\(call) \(subject): \(reason)" }

    /// Whether the name already exists.
    package var isExisting: Bool { code == EEXIST }

    /// Whether the device is in use.
    package var isBusy: Bool { code == EBUSY }

    /// Whether the file system or device is full, or a limit of the process or the file system
    /// keeps a file from growing.
    package var isNoSpace: Bool {
        code == ENOSPC || code == EDQUOT || code == EFBIG && call != "read"
    }

    /// The error, with a hint whose space is lacking if that is the cause.
    package var sentence: String {
        let path = subject.prefix { $0 != " " }
        guard isNoSpace, path.hasPrefix("/") else { return description }
        return
            "there is no room on the file system of \(Directory.parent(of: String(path))): \(description)"
    }

    /// Whether the file system is read-only.
    package var isReadOnly: Bool { code == EROFS }

    /// Whether the name does not exist.
    package var isNotFound: Bool { code == ENOENT }
}

/// Repeats a call while a signal interrupts it.
package func retryingInterrupted(_ body: () -> Int) -> Int {
    while true {
        let result = body()
        if result >= 0 || errno != EINTR { return result }
    }
}
