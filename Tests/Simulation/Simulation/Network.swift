// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Wire

/// What lies between the two halves of a session: it carries frames, in both directions one after the other, and has at
/// most one fault.
final class Network {
    enum Fault {
        case none
        /// This frame and all later ones are lost, and the connection with them.
        case cut(frame: Int)
        /// The same, but the connection stays: its session lives until the standby has waited long enough.
        case stall(frame: Int)
        /// A bit of this frame is another when it arrives.
        case damage(frame: Int, bit: Int)
        /// Before this frame the sender connects a second time.
        case again(frame: Int)
    }

    /// The connection is gone.
    struct Cut: Error {}
    /// Nothing comes any more.
    struct Stalled: Error {}
    /// A side has seen that a frame is not as it was sent.
    struct Damaged: Error {}

    /// How many frames were sent.
    private(set) var frames = 0
    private let fault: Fault
    /// What the second connection does.
    var connectAgain: () throws -> Void = {}
    private(set) var hasDamaged = false

    init(_ fault: Fault = .none) { self.fault = fault }

    /// What of a frame arrives.
    func carry(_ frame: [UInt8]) throws -> [UInt8] {
        defer { frames += 1 }
        switch fault {
        case .cut(let number) where frames >= number: throw Cut()
        case .stall(let number) where frames >= number: throw Stalled()
        case .damage(let number, let bit) where frames == number:
            var frame = frame
            frame[bit / 8 % frame.count] ^= 1 << (bit % 8)
            hasDamaged = true
            return frame
        case .again(let number) where frames == number: try connectAgain()
        default: break
        }
        return frame
    }
}
