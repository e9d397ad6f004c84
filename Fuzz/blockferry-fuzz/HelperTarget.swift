// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import LVM
import Volumes
import Wire

/// What a captured daemon may send to the helper, what it answers, the file of its volumes, and tags of snapshots.
@Sendable func fuzzHelper(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice < 224 ? choice % 5 : 5 + choice % 2 {
    case 0: check(request: packet(&input, isAnswer: false))
    case 1: check(answer: packet(&input, isAnswer: true))
    case 2: check(request: input.rest())
    case 3: check(answer: input.rest())
    case 4: check(file: String(decoding: input.rest(), as: UTF8.self))
    case 5: check(tag: "bfk2:" + String(decoding: input.rest(), as: UTF8.self))
    default: check(tag: nearlyTag(&input))
    }
}

/// A packet with a header that is mostly right.
private func packet(_ input: inout Input, isAnswer: Bool) -> [UInt8] {
    var bytes = Array("BFLV".utf8) + [2, UInt8(input.number(usually: 3) & 15)]
    bytes += [isAnswer ? input.byte() & 3 : 0, 0]
    if !isAnswer { bytes += [UInt8](repeating: 0x61, count: 64) }
    bytes += input.rest()
    return bytes
}

private func check(request bytes: [UInt8]) {
    let request = try? bytes.withRawSpan { (span) throws(WireError) in
        try HelperRequest(decoding: span)
    }
    guard let request else { return }
    precondition(request.encoded() == bytes, "a request has two forms")
    precondition(request.volume.description.utf8.allSatisfy { $0 != 0x2F && $0 != 0x2D })
    if case .release(_, let uuid) = request.order {
        precondition(!uuid.hasPrefix("-") && uuid.utf8.count == 38, "an option for LVM")
    }
    if case .grow(let size) = request.order { precondition(size > 0 && size <= 1 << 62) }
}

private func check(answer bytes: [UInt8]) {
    let answer = try? bytes.withRawSpan { (span) throws(WireError) in
        try HelperAnswer(decoding: span)
    }
    guard let answer else { return }
    precondition(answer.encoded() == bytes, "an answer has two forms")
    if case .kept(let found, _) = answer {
        precondition(Set(found.map(\.snapshotUUID)).count == found.count)
    }
}

private let owner = VolumeName("home").map { KeptTags(KeptOwner(KeyID(.zero), $0)) }

/// The tag of a generation, with a byte or two of it changed.
private func nearlyTag(_ input: inout Input) -> String {
    let mark = GenerationMark(
        number: max(input.number(), 1), id: .zero, sourceTime: input.number(),
        committedAt: input.number())
    guard var tag = owner.map({ Array(($0.new(mark).last ?? "").utf8) }) else { return "" }
    precondition(owner?.mark(String(decoding: tag, as: UTF8.self)) == mark, "a tag is not read")
    tag.spoil(&input)
    return String(decoding: tag, as: UTF8.self)
}

private func check(tag: String) {
    guard let mark = owner?.mark(tag) else { return }
    precondition(owner?.new(mark).last == tag, "a generation has two tags")
    precondition(mark.number > 0 && tag.utf8.count <= 165)
}

private func check(file text: String) {
    guard let found = ConfiguredVolumes(text) else { return }
    for name in found.names {
        precondition(
            name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } && !name.hasPrefix("-")
                && !name.contains("/-") && !name.hasSuffix("/.."), "no name: \(name)")
    }
}
