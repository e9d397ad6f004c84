// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import LVM
import Platform

/// Numbers that a file system, sysfs, device-mapper or LVM may give, and what is made of them.
@Sendable func fuzzHostValues(_ bytes: [UInt8]) {
    var input = Input(bytes)
    func signed() -> Int64 { Int64(bitPattern: input.number()) }
    let (seconds, rest) = (signed(), signed())
    if let time = KernelValues.time(seconds: seconds, nanoseconds: rest) {
        precondition(Int64(time / nanosecondsPerSecond) == seconds)
        precondition(Int64(time % nanosecondsPerSecond) == rest)
    }
    let (part, whole) = (input.number(), input.number())
    let product = KernelValues.bytes(part, of: whole)
    precondition(product == .max || whole == 0 || product / whole == part)
    let percent = KernelValues.percent(part, of: whole)
    precondition(whole == 0 || part > whole || percent <= 100)
    if let size = KernelValues.blockSize(Int32(truncatingIfNeeded: input.number())) {
        precondition(size >= 512 && size.nonzeroBitCount == 1)
    }
    let (offset, size) = (input.number(), input.number())
    if let range = KernelValues.data(from: signed(), to: signed(), asked: offset, size: size) {
        precondition(!range.isEmpty && range.lowerBound >= offset && range.upperBound <= size)
    }
    let greatest = input.byte() & 1 == 0 ? "\(input.number())" : text(&input)
    let granularity = input.byte() & 1 == 0 ? "\(input.number())" : text(&input)
    if let unit = KernelValues.discardUnit(greatest: greatest, granularity: granularity) {
        precondition(unit > 0 && unit <= 1 << 30)
    }
    let number = text(&input)
    if let device = DeviceNumber(number) { precondition(DeviceNumber("\(device)") == device) }
    let words = ["snapshot", "\(input.number())/\(input.number())", "16"]
    let device = DeviceNumber(major: 254, minor: 7)
    if case .valid(let used, let total)? = try? DeviceMapper.SnapshotStatus(words, of: device) {
        _ = KernelValues.percent(used, of: total)
    }
}

private func text(_ input: inout Input) -> String {
    String(decoding: input.take(Int(input.byte() % 24)), as: UTF8.self)
}
