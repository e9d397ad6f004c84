// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import Platform
import Testing

@Suite("Where files lie, as a process sees it") struct MountTableTests {
    /// As of a unit with ProtectSystem=strict, ReadWritePaths=/srv/a b and PrivateTmp=yes.
    private let table = MountTable(
        """
        610 590 254:1 / / ro,relatime shared:1 - ext4 /dev/vda1 rw
        611 610 254:1 /var/lib/own /var/lib/own rw,relatime - ext4 /dev/vda1 rw
        612 610 254:1 /srv/a\\040b /srv/a\\040b rw,noexec - ext4 /dev/vda1 rw
        613 610 254:1 /tmp/private-7/tmp /tmp rw shared:1 master:2 - ext4 /dev/vda1 rw
        614 610 0:40 / /srv/other rw - tmpfs tmpfs rw
        615 610 0:41 / /srv/other ro - tmpfs tmpfs ro
        line that is none
        616
        """)

    @Test(
        "a path lies on the last mount above it",
        arguments: [
            ("/", "254:1", "", true), ("/srv/x", "254:1", "/srv/x", true),
            ("/var/lib/own", "254:1", "/var/lib/own", false),
            ("/var/lib/own/maps/m", "254:1", "/var/lib/own/maps/m", false),
            ("/var/lib/owner", "254:1", "/var/lib/owner", true),
            ("/srv/a b/copy", "254:1", "/srv/a b/copy", false),
            ("/tmp/copy", "254:1", "/tmp/private-7/tmp/copy", false),
            ("/srv/other/copy", "0:41", "/copy", true),
        ])
    func place(_ path: String, _ device: String, _ inside: String, _ isReadOnly: Bool) throws {
        let place = try #require(table.place(of: path))
        #expect(place.device == device)
        #expect(place.path == (inside.isEmpty ? "/" : inside))
        #expect(place.isReadOnly == isReadOnly)
    }

    @Test("what the kernel tells of this process is read, and is where a file can be written")
    func own() throws {
        let text = String(decoding: try #require(MountTable.own), as: UTF8.self)
        let path = NSTemporaryDirectory()
        let place = try #require(MountTable(text).place(of: path))
        #expect(!place.isReadOnly)
        #expect(place.device.contains(":"))
    }

    @Test("lines that are none give no place, and no trap")
    func nonsense() {
        for text in ["", " ", "\\\\\\", "1 2 3 / \\9 rw", "1 2 3 \\777 \\777 rw", "a b c d e"] {
            #expect(MountTable(text).place(of: "/x") == nil)
        }
    }
}
