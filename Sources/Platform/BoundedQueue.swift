// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// A blocking queue of bounded length between threads.
///
/// The bound limits memory: a fast producer waits for a slow consumer. Closing ends both sides:
/// producers stop at once, consumers after they have taken what is left.
@safe
package final class BoundedQueue<Element: Sendable>: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: every access to the state is under `mutex`. The mutex and the
    // condition variables live in heap memory of their own, since their address must not change.

    private let capacity: Int
    private var elements: [Element] = []
    private var closed = false
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let notEmpty: UnsafeMutablePointer<pthread_cond_t>
    private let notFull: UnsafeMutablePointer<pthread_cond_t>

    /// Makes a queue that holds at most `capacity` elements.
    package init(capacity: Int) {
        self.capacity = capacity
        unsafe mutex = .allocate(capacity: 1)
        unsafe notEmpty = .allocate(capacity: 1)
        unsafe notFull = .allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(notEmpty, &attributes)
        unsafe pthread_cond_init(notFull, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(notEmpty)
        unsafe pthread_cond_destroy(notFull)
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
        unsafe notEmpty.deallocate()
        unsafe notFull.deallocate()
    }

    private func locked<Result>(_ body: () -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body()
    }

    /// Adds an element; waits while the queue is full.
    ///
    /// - Returns: `false` if the queue is closed and the element was not added.
    @discardableResult
    package func push(_ element: Element) -> Bool {
        locked {
            while elements.count >= capacity && !closed { unsafe pthread_cond_wait(notFull, mutex) }
            if closed { return false }
            elements.append(element)
            unsafe pthread_cond_signal(notEmpty)
            return true
        }
    }

    /// Takes the next element; waits while the queue is empty.
    ///
    /// - Returns: `nil` once the queue is closed and empty.
    package func pop() -> Element? {
        locked {
            while elements.isEmpty && !closed { unsafe pthread_cond_wait(notEmpty, mutex) }
            return takeFirst()
        }
    }

    /// Takes the next element; `nil` if there is none now.
    package func tryPop() -> Element? {
        locked { takeFirst() }
    }

    /// Whether the next push would wait.
    package var isFull: Bool { locked { elements.count >= capacity } }

    package var isEmpty: Bool { locked { elements.isEmpty } }

    /// Whether the queue is closed and empty.
    package var isFinished: Bool { locked { closed && elements.isEmpty } }

    /// Closes the queue; `discarding` drops its elements.
    package func close(discarding: Bool = false) {
        locked {
            closed = true
            if discarding { elements.removeAll() }
            unsafe pthread_cond_broadcast(notEmpty)
            unsafe pthread_cond_broadcast(notFull)
        }
    }

    private func takeFirst() -> Element? {
        guard !elements.isEmpty else { return nil }
        // The queue is short by design, so shifting costs less than a ring buffer would.
        let first = elements.removeFirst()
        unsafe pthread_cond_signal(notFull)
        return first
    }
}
