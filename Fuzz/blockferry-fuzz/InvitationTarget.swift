// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Glibc
import Wire

/// Invitations, peer ids, names of volumes and addresses: what people paste.
@Sendable func fuzzInvitation(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice & 7 {
    case 0, 1:
        // A body with the right checksum, as text.
        var body = input.rest()
        if choice & 8 == 0 { body = [1] + body }
        check(sealed: body)
    case 2, 3:
        let address = input.rest()
        check(address: String(decoding: address, as: UTF8.self))
    case 4: check(address: "[" + version6(&input) + "]:7979")
    case 5: checkPeerID(&input)
    case 6: checkName(String(decoding: input.rest(), as: UTF8.self))
    default:
        let text = String(decoding: input.rest(), as: UTF8.self)
        if let invitation = try? Invitation(text: text) { precondition(invitation.text == text) }
        if let id = try? KeyID(peerID: text) { precondition(id.peerID == text) }
        if let bytes = Hex.decode(text) { precondition(Hex.encode(bytes) == text.lowercased()) }
        for letters in [Base32.Letters.lower, .upper] {
            guard let bytes = Base32.decode(text, letters) else { continue }
            precondition(Base32.encode(bytes, letters) == text)
        }
    }
}

private func check(sealed body: [UInt8]) {
    var body = body
    body.append(littleEndian: body.withRawSpan { CRC32C.checksum($0) })
    let text = "bf1." + Base32.encode(body, .lower)
    guard let invitation = try? Invitation(text: text) else { return }
    precondition(invitation.text == text, "an invitation has two texts")
    precondition(invitation.secret.count == 16)
}

/// An address inside an invitation that is right but for it; `inet_pton` is asked as well.
private func check(address: String) {
    let invitation = Invitation(
        receiver: KeyID(Known.digests[1]), secret: [UInt8](repeating: 2, count: 16),
        volume: Known.volumes[0], address: address)
    let isTaken = (try? Invitation(text: invitation.text)) == invitation
    let colon = address.utf8.lastIndex(of: UInt8(ascii: ":"))
    guard let colon, !address.utf8.isEmpty, address.utf8.count <= 255 else {
        return precondition(!isTaken)
    }
    let port = address.utf8[address.utf8.index(after: colon)...]
    let digits = String(decoding: port, as: UTF8.self)
    let isPort =
        port.allSatisfy { (0x30...0x39).contains($0) } && port.first != 0x30
        && UInt16(digits) != nil
    let host = address.utf8[..<colon]
    var isHost = !host.isEmpty && host.allSatisfy(isHostByte)
    if host.first == UInt8(ascii: "[") {
        let inside = host.dropFirst().dropLast()
        isHost = host.count >= 2 && host.last == UInt8(ascii: "]") && isVersion6(Array(inside))
    }
    precondition(isTaken == (isPort && isHost), "an address was misjudged")
}

private func isHostByte(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2E, 0x2D, 0x5F: true
    default: false
    }
}

private func isVersion6(_ text: [UInt8]) -> Bool {
    guard !text.contains(0) else { return false }
    let string = text.map { CChar(truncatingIfNeeded: $0) } + [0]
    var address = in6_addr()
    // SAFETY: the text ends with a zero, and the address has the size that the family says.
    return unsafe inet_pton(AF_INET6, string, &address) == 1
}

/// Groups, colons and dots in an order that is often right.
private func version6(_ input: inout Input) -> String {
    var text = ""
    for _ in 0..<12 where !input.isEmpty {
        let choice = input.byte()
        switch choice & 15 {
        case 0...6: text += String(choice, radix: 16) + ":"
        case 7...9: text += String(choice >> 4, radix: 16)
        case 10: text += ":"
        case 11: text += "::"
        case 12: text += "\(choice).0.25\(choice >> 5).1"
        case 13: text += "ffff:"
        case 14: text += "0\(choice >> 4)"
        default: text += String(decoding: input.take(1), as: UTF8.self)
        }
    }
    return text
}

private func checkPeerID(_ input: inout Input) {
    var text = Array(KeyID(input.digest()).peerID.utf8)
    text.spoil(&input)
    let string = String(decoding: text, as: UTF8.self)
    if let id = try? KeyID(peerID: string) {
        precondition(id.peerID == string, "a peer id has two texts")
    }
}

private func checkName(_ text: String) {
    let bytes = Array(text.utf8)
    let isName =
        (1...63).contains(bytes.count)
        && bytes.allSatisfy { isHostByte($0) || $0 == 0x2B }
        && bytes.first != 0x2D && text != "." && text != ".."
    precondition((VolumeName(text) != nil) == isName, "a name was misjudged")
}
