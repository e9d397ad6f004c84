// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Facts of this host.
package enum Host {
    /// The kernel's id of the current boot, unique to it; `nil` if the kernel does not report one.
    package static let bootID: String? = {
        let file = try? File(path: "/proc/sys/kernel/random/boot_id")
        guard let bytes = try? file?.readBytes(at: 0, count: 64) else { return nil }
        let text = String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
        return text.isEmpty ? nil : text
    }()
}
