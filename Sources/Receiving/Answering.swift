// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Session
package import Wire

// Connects the session's state machine with the work that it requests.

extension IncomingTransfer {
    /// Performs the action of a frame other than a record and reports the result.
    package func perform(_ action: ReceiverSession.Action) throws {
        switch action {
        case .open(let name): try open(name)
        case .pair(let pair): try self.pair(pair)
        case .begin(let begin): try self.begin(begin)
        case .abandon(let transfer): try abandon(transfer)
        case .compare(let compare): try self.compare(compare)
        case .ask(let range): try ask(range)
        case .seal(let seal): try self.seal(seal)
        case .commit(let record): try commit(record)
        case .current(let current): try confirm(current)
        case .none, .welcome, .record, .stopped: break
        }
    }
}

extension ReceiverSession {
    /// Updates the session with a result.
    ///
    /// - Returns: the message for the sender, or `nil` if there is none.
    package mutating func answer(to outcome: IncomingTransfer.Outcome) -> (any Message)? {
        switch outcome {
        case .opened(let state):
            opened()
            return state
        case .paired(let volume):
            paired()
            return Paired(volume: volume)
        case .ready(let ready):
            self.ready()
            return ready
        case .ack(let ack): return ack
        case .progress(let progress):
            // Recovery at OPEN also reports progress, but the sender does not expect any then.
            return isCommitting || isComparing && progress.phase == .reading ? progress : nil
        case .compared(let compared):
            self.compared()
            return compared
        case .nodes(let nodes):
            answered()
            return nodes
        case .committed(let committed):
            self.committed()
            return committed
        case .prepared(let prepared):
            self.prepared()
            return prepared
        case .refuse(let refusal): return refusal
        case .note, .memory: return nil
        }
    }
}
