// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Wire

/// What a session asks of the program that runs it.
package enum SessionError: Error, Equatable, Sendable {
    /// The other side broke the protocol; the refusal is to be sent before closing.
    case broken(Refusal)
    /// The other side refused.
    case refused(Refusal)

    static func malformed(_ text: String) -> SessionError {
        .broken(Refusal(.malformed, text))
    }

    static func unexpected(_ type: FrameType, in state: String) -> SessionError {
        malformed("frame \(type) does not belong in the state \(state)")
    }
}
