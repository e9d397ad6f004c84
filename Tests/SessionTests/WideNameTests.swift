// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Session
import Testing
import Wire

@Suite("Names of volumes as LVM gives them")
struct WideNameTests {
    @Test("a name that an older receiver does not take is not sent to it")
    func wideNames() throws {
        for (text, isWide) in [
            ("disk", false), ("vm-1.x_y", false), ("0", false), ("Disk", true), ("a+b", true),
            ("_a", true), (".a", true),
        ] {
            let name = try #require(VolumeName(text))
            #expect(name.isWide == isWide)
            for features in [0, 2, 4, 6] as [UInt32] {
                var sender = SenderSession(.replicate(name))
                let welcome = ReceiverMessage.welcome(
                    Welcome(version: 1, features: features, software: ""))
                guard isWide, features & 4 == 0 else {
                    #expect(
                        try sender.receive(welcome, type: .welcome) == .open(Open(volume: name)))
                    continue
                }
                #expect(try sender.receive(welcome, type: .welcome) == .unknownName(name))
                #expect(sender.isDone)
            }
        }
    }
}
