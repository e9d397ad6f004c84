// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Wire

/// How a session ends with an error.
package enum SessionError: Error, Equatable, Sendable {
    /// The other side broke the protocol; send the refusal before closing.
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
