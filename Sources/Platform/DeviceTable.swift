// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import CLinux
internal import Glibc

/// The live table of a device-mapper device, from the kernel.
package struct DeviceTable: Equatable, Sendable {
    /// One range of the device.
    package struct Line: Equatable, Sendable {
        /// Start in sectors of 512 bytes.
        package var start: UInt64
        /// Length in sectors of 512 bytes.
        package var length: UInt64
        /// Target type, such as `linear` or `thin`.
        package var type: String
        /// The rest of the line, split at spaces.
        package var parameters: [String]

        package init(start: UInt64, length: UInt64, type: String, parameters: [String]) {
            self.start = start
            self.length = length
            self.type = type
            self.parameters = parameters
        }
    }

    /// The ranges in order.
    package var lines: [Line]

    package init(lines: [Line]) {
        self.lines = lines
    }

    /// Queries device-mapper. Needs permission to open `/dev/mapper/control`, and `CAP_SYS_ADMIN`.
    package init(of device: DeviceNumber) throws(SystemCallError) {
        let control = try File(path: "/dev/mapper/control", .write)
        let memory = AlignedBuffer(byteCount: 64 << 10)
        let reply = unsafe memory.pointer(at: 0, count: memory.byteCount)
        // SAFETY: the memory is passed with its length and lives through the call.
        let count = unsafe clinux_device_table(
            control.descriptor, device.major, device.minor, reply.baseAddress, reply.count)
        guard count >= 0 else { throw SystemCallError("DM_TABLE_STATUS", "device \(device)") }
        let table = memory.withBytes(count: memory.byteCount) {
            Self(reply: $0, count: Int(count))
        }
        guard let table else {
            throw SystemCallError("DM_TABLE_STATUS", "device \(device)", code: EINVAL)
        }
        self = table
    }

    /// Decodes the kernel's reply: `count` times `struct dm_target_spec`, each followed by its
    /// parameters and a zero byte. Returns `nil` if it is malformed.
    ///
    /// Source: include/uapi/linux/dm-ioctl.h of Linux.
    package init?(reply bytes: RawSpan, count: Int) {
        lines = []
        var place = 0
        while lines.count < count {
            guard let start = try? bytes.littleEndian(at: place, as: UInt64.self),
                let length = try? bytes.littleEndian(at: place + 8, as: UInt64.self),
                let next = try? bytes.littleEndian(at: place + 20, as: UInt32.self),
                let type = try? bytes.copyBytes(at: place + 24, count: 16),
                Int(next) > 40, Int(next) <= bytes.byteCount,
                // `next` counts from the start of the reply.
                let text = try? bytes.copyBytes(at: place + 40, count: Int(next) - place - 40)
            else { return nil }
            let parameters = String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
            lines.append(
                Line(
                    start: start, length: length,
                    type: String(decoding: type.prefix { $0 != 0 }, as: UTF8.self),
                    parameters: parameters.split(separator: " ").map(String.init)))
            place = Int(next)
        }
    }
}
