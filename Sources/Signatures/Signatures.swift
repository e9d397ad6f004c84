// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CBlkid
internal import Glibc
package import Platform

/// The use of a device or file, by the signatures of file systems and others that libblkid knows.
package enum Signatures {
    /// The signatures found, as text such as "an ext4 file system"; empty if none is known.
    ///
    /// - Parameter file: a file opened without `direct`.
    package static func found(on file: File) throws(SystemCallError) -> [String] {
        // SAFETY: the probe is freed below, and used in between only.
        guard let probe = unsafe blkid_new_probe() else {
            throw SystemCallError("blkid_new_probe", file.path, code: ENOMEM)
        }
        defer { unsafe blkid_free_probe(probe) }
        // SAFETY: the descriptor outlives the probe. Without a size it is that of the file.
        guard unsafe blkid_probe_set_device(probe, file.descriptor, 0, 0) == 0 else {
            throw SystemCallError("blkid_probe_set_device", file.path)
        }
        // SAFETY: these set flags of the probe.
        unsafe blkid_probe_enable_superblocks(probe, 1)
        unsafe blkid_probe_set_superblocks_flags(
            probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL)
        unsafe blkid_probe_enable_partitions(probe, 1)
        var words: [String] = []
        // Each call finds one more signature. More than a few would be chance.
        while words.count < 8 {
            // SAFETY: probes; 0 if something was found.
            let result = unsafe blkid_do_probe(probe)
            guard result >= 0 else { throw SystemCallError("blkid_do_probe", file.path, code: EIO) }
            guard result == 0 else { break }
            func value(_ name: String) -> String? {
                var text: UnsafePointer<CChar>?
                // SAFETY: the text is the probe's, has an end, and is copied before the next call.
                guard unsafe blkid_probe_lookup_value(probe, name, &text, nil) == 0,
                    let text = unsafe text
                else { return nil }
                return unsafe String(cString: text)
            }
            let found = sentence(
                type: value("TYPE"), usage: value("USAGE"), label: value("LABEL"),
                table: value("PTTYPE"))
            if let found, !words.contains(found) { words.append(found) }
        }
        return words
    }

    private static func sentence(
        type: String?, usage: String?, label: String?, table: String?
    ) -> String? {
        guard let type else { return table.map { "a partition table (\($0))" } }
        let name = label.flatMap { $0.isEmpty ? nil : " labelled \($0)" } ?? ""
        switch (type, usage) {
        case ("LVM2_member", _): return "an LVM physical volume"
        case ("crypto_LUKS", _): return "an encrypted volume (LUKS)\(name)"
        case ("swap", _), ("swsuspend", _): return "swap space\(name)"
        case (_, "filesystem"): return "a file system (\(type))\(name)"
        case (_, "raid"): return "a part of a RAID (\(type))\(name)"
        default: return "\(type)\(name)"
        }
    }
}
