// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// This host.
package enum Host {
    /// The kernel's name for this run of the host, which no other run gets; nil if it does not tell one.
    package static let bootID: String? = {
        let file = try? File(path: "/proc/sys/kernel/random/boot_id")
        guard let bytes = try? file?.readBytes(at: 0, count: 64) else { return nil }
        let text = String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
        return text.isEmpty ? nil : text
    }()
}
