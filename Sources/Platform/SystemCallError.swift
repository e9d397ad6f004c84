// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A failed system call: what was called, on what, and why it failed.
package struct SystemCallError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Name of the call, such as "pwrite".
    package let call: String
    /// The value of `errno`.
    package let code: Int32
    /// What it was about, such as "/dev/vg0/standby at byte 1048576".
    package let subject: String

    /// Makes the error from a code.
    package init(_ call: String, _ subject: String, code: Int32) {
        self.call = call
        self.code = code
        self.subject = subject
    }

    /// Makes the error from `errno`, which must not have been touched since the call.
    package init(_ call: String, _ subject: String) {
        self.init(call, subject, code: errno)
    }

    /// The system's words for the code.
    package var reason: String {
        // SAFETY: strerror returns a C string that stays valid until the next call on this thread.
        unsafe String(cString: strerror(code))
    }

    package var description: String { "\(call) \(subject): \(reason)" }

    /// Whether there is something under the name already.
    package var isExisting: Bool { code == EEXIST }

    /// Whether somebody else has the device.
    package var isBusy: Bool { code == EBUSY }

    /// Whether the file system or device has no room left, or a file may not become as large: by a limit of the process
    /// or of the file system.
    package var isNoSpace: Bool {
        code == ENOSPC || code == EDQUOT || code == EFBIG && call != "read"
    }

    /// The error, and whose room is missing where that is it.
    package var sentence: String {
        let path = subject.prefix { $0 != " " }
        guard isNoSpace, path.hasPrefix("/") else { return description }
        return
            "there is no room on the file system of \(Directory.parent(of: String(path))): \(description)"
    }

    /// Whether the file system is read-only.
    package var isReadOnly: Bool { code == EROFS }

    /// Whether there is nothing of this name.
    package var isNotFound: Bool { code == ENOENT }
}

/// Repeats a call as long as a signal interrupts it.
package func retryingInterrupted(_ body: () -> Int) -> Int {
    while true {
        let result = body()
        if result >= 0 || errno != EINTR { return result }
    }
}
