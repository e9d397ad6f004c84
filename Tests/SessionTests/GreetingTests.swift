// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Session
import Testing
import Wire

@Suite struct GreetingTests {
    @Test(
        "who has no session is told so in answer to HELLO, and when to come back if that can be read"
    )
    func refusedBeforeWelcome() throws {
        let refusal = Refusal(.busy, rule: .sessions, retryAfter: 2, "no session")
        for (features, told) in [(0, 0), (1, 0), (2, 2), (.max, 2), (.max - 2, 0)]
            as [(UInt32, UInt16)]
        {
            var session = ReceiverSession(isPairing: false, software: "x", refusing: refusal)
            #expect(throws: SessionError.self) { _ = try session.receive(.ping, type: .ping) }
            var hello = SenderSession.hello(software: "x")
            hello.features = features
            var answer: Refusal?
            do { _ = try session.receive(.hello(hello), type: .hello) } catch {
                guard case .broken(let found) = error else { throw error }
                answer = found
            }
            var expected = refusal
            expected.retryAfter = told
            #expect(answer == expected)
        }
    }

    @Test("WELCOME has the features that both sides know")
    func features() throws {
        for (offered, chosen) in [(0, 0), (1, 1), (.max, 15), (6, 6), (24, 8), (48, 0)]
            as [(UInt32, UInt32)]
        {
            var session = ReceiverSession(isPairing: false, software: "x")
            var hello = SenderSession.hello(software: "x")
            hello.features = offered
            guard case .welcome(let welcome) = try session.receive(.hello(hello), type: .hello)
            else {
                Issue.record("no WELCOME")
                continue
            }
            #expect(welcome.features == chosen)
        }
    }

    @Test("CURRENT comes only with the feature, and its answer names the same generation")
    func current() throws {
        let volume = try #require(VolumeName("disk"))
        let current = Current(number: 7, id: SHA256Digest.of([7]))
        let state = StandbyState(
            state: .consistent, targetKind: .file, targetSize: 0, lineage: .random(),
            committedNumber: 7, committedID: current.id, transfer: .none, durableSegments: 0)
        for feature in [false, true] {
            var receiver = ReceiverSession(isPairing: false, software: "x")
            var hello = SenderSession.hello(software: "x")
            hello.features = feature ? 8 : 7
            _ = try receiver.receive(.hello(hello), type: .hello)
            _ = try receiver.receive(.open(Open(volume: volume)), type: .open)
            receiver.opened()
            let action = Result { () throws(SessionError) in
                try receiver.receive(.current(current), type: .current)
            }
            #expect((try? action.get()) == (feature ? .current(current) : nil))
            var sender = SenderSession(.replicate(volume))
            let welcome = Welcome(version: 1, features: feature ? 8 : 0, software: "x")
            _ = try sender.receive(.welcome(welcome), type: .welcome)
            _ = try sender.receive(.state(state), type: .state)
            #expect(sender.confirm(current) == (feature ? current : nil))
            #expect(!sender.isDone)
            guard feature else { continue }
            for wrong in [
                Committed(number: 8, id: current.id), Committed(number: 7, id: .zero),
            ] {
                var other = sender
                #expect(throws: SessionError.self) {
                    try other.receive(.committed(wrong), type: .committed)
                }
            }
            let right = Committed(number: 7, id: current.id)
            #expect(try sender.receive(.committed(right), type: .committed) == .committed)
            #expect(sender.isDone)
        }
    }
}
