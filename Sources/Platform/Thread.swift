// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// A dedicated thread for work that blocks: disks, sockets, long loops.
///
/// Blocking work never runs on Swift's cooperative pool, which has only as many threads as cores.
@safe
package final class Thread: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: `handle` is set before the object is shared and used once, by join.

    private var handle = pthread_t()

    /// Starts `body` on a new thread; `name` is for debuggers (at most 15 bytes are kept).
    package init(_ name: String, _ body: @escaping @Sendable () -> Void) {
        let box = unsafe Unmanaged.passRetained(Start(name: name, body: body))
        // SAFETY: the new thread takes the retained box over; the handle is written before init returns.
        let result = unsafe pthread_create(
            &handle, nil,
            { context in
                guard let context = unsafe context else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
                unsafe pthread_setname_np(pthread_self(), String(start.name.prefix(15)))
                start.body()
                return nil
            }, unsafe box.toOpaque())
        guard result == 0 else {
            Process.giveUp("\(SystemCallError("pthread_create", "for \(name)", code: result))")
        }
    }

    /// Waits for the thread's end. Call it once.
    package func join() {
        pthread_join(handle, nil)
    }

    private final class Start: Sendable {
        let name: String
        let body: @Sendable () -> Void

        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
}

/// The first failure in a group of threads.
///
/// When one stage of a pipeline fails, closing the queues stops the others; their own errors are
/// consequences and are dropped.
package final class FirstFailure: Sendable {
    private let stored = Mutex<(any Error)?>(nil)

    package init() {}

    /// Records `error` if it is the first.
    package func record(_ error: any Error) {
        stored.withLock { if $0 == nil { $0 = error } }
    }

    /// The first failure.
    package var error: (any Error)? { stored.withLock { $0 } }
}
