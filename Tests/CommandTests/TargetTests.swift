// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension CommandTests {
    @Suite(.serialized) struct TargetRefusalTests {
        @Test("a mounted device is refused, and accepted once it is not")
        func mounted() throws {
            guard LoopDevice.isAvailable else { return }
            let folder = try TemporaryFolder()
            let image = try folder.write([], as: "ext4.img")
            try setSize(image, 8 << 20)
            _ = try ToolRun("/usr/sbin/mkfs.ext4", "-q", "-F", image)
            let device = try LoopDevice(byteCount: 8 << 20, in: folder)
            let pair = try Pairing(target: device.path)
            _ = try pair.source.mustSend([image], to: pair.volume)
            let place = "\(folder.path)/mounted"
            try FileManager.default.createDirectory(
                atPath: place, withIntermediateDirectories: false)
            _ = try ToolRun("/usr/bin/mount", "-o", "ro,noload", device.path, place)
            let before = try digest(device.path)
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: image))
            try file.seek(toOffset: 7 << 20)
            try file.write(contentsOf: Data(repeating: 9, count: 70_000))
            try file.close()
            let run = try pair.source.send([image], to: pair.volume)
            let after = try digest(device.path)
            _ = try ToolRun("/usr/bin/umount", place)
            #expect(run.status == 9 && run.error.contains("rule in-use"), "\(run)")
            #expect(run.isOneSentence && run.hasNoResult && before == after, "\(run)")
            _ = try pair.source.mustSend([image], to: pair.volume)
            try #expect(digest(device.path) == digest(image))
            report("refusals: 1 of a mounted device")
        }

        @Test("a device that is too small is refused before a byte of it is written")
        func tooSmall() throws {
            guard LoopDevice.isAvailable else { return }
            let folder = try TemporaryFolder()
            let device = try LoopDevice(byteCount: 2 << 20, in: folder)
            let pair = try Pairing(target: device.path)
            let before = try digest(device.path)
            let path = try folder.write([UInt8](repeating: 3, count: 2 << 20 + 512), as: "big.img")
            let run = try pair.source.send([path], to: pair.volume)
            #expect(run.status == 9 && run.error.contains("rule too-small"), "\(run)")
            #expect(run.isOneSentence && run.hasNoResult, "\(run)")
            try #expect(digest(device.path) == before)
            #expect(try pair.standby.status(pair.volume)["state"].string == "empty")
            report("refusals: 1 of a small device")
        }

        @Test("a volume that outgrew its device is refused with both sizes, and the copy stays")
        func outgrown() throws {
            guard LoopDevice.isAvailable else { return }
            let folder = try TemporaryFolder()
            let file = try folder.write([UInt8](repeating: 0, count: 2 << 20), as: "loop.img")
            let device = try LoopDevice(file: file)
            let pair = try Pairing(target: device.path)
            let path = try folder.write([UInt8](repeating: 3, count: 2 << 20), as: "source.img")
            _ = try pair.source.mustSend([path], to: pair.volume)
            let status = try pair.standby.status(pair.volume)
            let before = try digest(device.path)
            try setSize(path, 3 << 20)
            for _ in 0..<2 {
                let run = try pair.source.send([path], to: pair.volume)
                #expect(run.status == 9 && run.error.contains("rule too-small"), "\(run)")
                #expect(run.isOneSentence && run.hasNoResult, "\(run)")
                #expect(
                    run.error.contains("2097152") && run.error.contains("3145728"), "\(run)")
                #expect(run.error.contains("make \(device.path) that large"), "\(run)")
                try #expect(digest(device.path) == before)
                let now = try pair.standby.status(pair.volume)
                #expect(now["state"].string == "consistent")
                #expect(now["generation_id"].string == status["generation_id"].string)
            }
            try setSize(file, 3 << 20)
            _ = try ToolRun("/usr/sbin/losetup", "-c", device.path)
            let sent = try pair.source.mustSend([path], to: pair.volume)
            #expect(sent["generation"].number == 2)
            try #expect(digest(device.path) == digest(path))
            report("refusals: 2 of an outgrown device")
        }

        @Test("a device that was made read-only is refused")
        func readOnly() throws {
            guard LoopDevice.isAvailable else { return }
            let folder = try TemporaryFolder()
            let device = try LoopDevice(byteCount: 4 << 20, in: folder)
            var refused = try Refused(target: device.path)
            _ = try ToolRun("/usr/sbin/blockdev", "--setro", device.path)
            try refused.checkSend(9, "rule read-only")
            _ = try ToolRun("/usr/sbin/blockdev", "--setrw", device.path)
            try refused.checkArrives()
            let file = try folder.write([], as: "read-only.img")
            try setSize(file, 1 << 20)
            let other = try LoopDevice(file: file, readOnly: true)
            let run = try refused.pair.standby.run(["invite", "other", "--target", other.path])
            #expect(run.status == 9 && run.hasNoResult && run.isOneSentence, "\(run)")
            report("refusals: \(refused.count + 1) of read-only devices")
        }

        @Test(
            "a file that a loop device has is refused, and so is one that was replaced or removed")
        func files() throws {
            var refused = try Refused()
            let target = refused.pair.target
            if LoopDevice.isAvailable {
                let device = try LoopDevice(file: target)
                try refused.checkSend(9, "rule in-use")
                withExtendedLifetime(device) {}
            }
            try FileManager.default.moveItem(atPath: target, toPath: target + ".kept")
            let missing = try refused.pair.source.send([refused.path], to: refused.pair.volume)
            #expect(missing.status == 9 && missing.error.contains("rule missing"), "\(missing)")
            #expect(!FileManager.default.fileExists(atPath: target))
            try FileManager.default.copyItem(atPath: target + ".kept", toPath: target)
            try refused.checkSend(9, "rule foreign")
            try FileManager.default.removeItem(atPath: target)
            try FileManager.default.moveItem(atPath: target + ".kept", toPath: target)
            try refused.checkArrives()
            report("refusals: \(refused.count + 1) of files")
        }
    }

    @Suite(.serialized) struct NetworkTests {
        @Test("a stream that is cut anywhere changes nothing, and the next send goes on")
        func cuts() throws {
            let proxy = try Proxy()
            var refused = try Refused(proxy: proxy, byteCount: 70 << 20)
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: refused.path))
            for place in stride(from: 0, to: 70 << 20, by: 1 << 20) {
                try file.seek(toOffset: UInt64(place))
                try file.write(contentsOf: Data(repeating: UInt8(place >> 20 + 1), count: 1 << 20))
            }
            try file.close()
            let places = [
                0, 100, 700, 1500, 2000, 5000, 100_000, 1_500_000, 20_000_000, 40_000_000,
                68_000_000,
            ]
            var interrupted = 0
            for place in places {
                proxy.set(.cutAfter(place))
                let count = proxy.cutCount
                let run = try refused.pair.source.send(
                    [refused.path, "--compress", "never"], to: refused.pair.volume)
                if run.status == 0, place > 5000 {
                    // What is left after resuming may be less than where the cut was to be.
                    #expect(proxy.cutCount == count)
                    break
                }
                try refused.check(run, run.status == 4 ? 4 : 5, "connection")
                if run.status == 5 { interrupted += 1 }
                try waitForWriter(refused.pair.standby, refused.pair.volume)
            }
            proxy.set(.pass)
            try refused.checkArrives()
            report("cut streams: \(refused.count), \(interrupted) of them in mid-transfer")
            #expect(interrupted >= 3)
        }

        @Test("a generation whose COMMITTED was lost is known to be committed, and not sent again")
        func lostCommitted() throws {
            let proxy = try Proxy()
            var refused = try Refused(proxy: proxy)
            let pair = refused.pair
            var lost = 0
            for round in 0..<3 {
                // Frame header, COMMITTED, and what TLS adds: the type and the tag.
                proxy.set(.swallow(recordLength: 32 + 40 + 17))
                let run = try pair.source.send([refused.path], to: pair.volume)
                #expect(run.status == 5 && run.isOneSentence, "\(run)")
                #expect(proxy.cutCount == round + 1)
                proxy.set(.pass)
                try waitForWriter(pair.standby, pair.volume)
                try #expect(digest(pair.target) == digest(refused.path))
                let status = try pair.source.run(["status", "--json"]).json()
                #expect(status["volumes"].elements.first?["state"].string == "commit-in-doubt")
                if round == 2 {
                    // The doubt is resolved even if the source has changed meanwhile.
                    try refused.change()
                    let next = try pair.source.mustSend([refused.path], to: pair.volume)
                    #expect(next["generation"].number == UInt64(round + 3))
                    #expect(next["from_generation"].number == UInt64(round + 2))
                } else {
                    let again = try pair.source.mustSend([refused.path], to: pair.volume)
                    #expect(again["result"].string == "up-to-date")
                    #expect(again["generation"].number == UInt64(round + 2))
                    #expect(try #require(again["bytes_on_wire"].number) < 4096)
                    try refused.change()
                }
                try #expect(digest(pair.target).isEmpty == false)
                lost += 1
            }
            try #expect(digest(pair.target) == digest(refused.path))
            report("lost COMMITTED: \(lost)")
        }

        @Test("TLS 1.2, plain text and silence get nothing, and the daemon goes on")
        func strangers() throws {
            var refused = try Refused()
            let port = refused.pair.standby.port
            var count = 0
            for version in ["-tls1_2", "-tls1_3"] {
                let run = try Running(
                    "/usr/bin/openssl",
                    ["s_client", "-connect", "127.0.0.1:\(port)", version, "-alpn", "blockferry/1"]
                ).result()
                #expect(version == "-tls1_3" || run.status != 0, "\(run)")
                #expect(version == "-tls1_3" || run.error.contains("alert"), "\(run)")
                count += 1
            }
            for text in ["GET / HTTP/1.0\\r\\n\\r\\n", "\\x16\\x03\\x01\\x40\\x01", "BLKFERRY"] {
                let run = try Running(
                    "/bin/bash",
                    [
                        "-c",
                        "exec 3<>/dev/tcp/127.0.0.1/\(port); printf '\(text)' >&3; "
                            + "timeout 20 cat <&3 | wc -c",
                    ]
                ).result()
                #expect(run.output == "0\n", "\(run)")
                count += 1
            }
            try #expect(digest(refused.pair.target) == refused.before)
            try refused.checkArrives()
            report("strangers: \(count)")
            refused.pair.standby.stop()
            try refused.remember()
            try refused.change()
            try refused.checkSend(4, "connect")
        }
    }
}
