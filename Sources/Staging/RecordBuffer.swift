// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Wire

/// One record in memory, on its way from the network to the log or the target.
///
/// The stored bytes begin at a page's border, where direct I/O wants them; header and tags lie right
/// before, so that the whole record is one run of bytes.
package final class RecordBuffer: Sendable {
    /// Where the stored bytes begin in `memory`.
    package static let contentStart = AlignedBuffer.alignment

    /// The memory: a page for header and tags, and the greatest content.
    package let memory = AlignedBuffer(byteCount: contentStart + Limits.recordContent)

    /// Makes one.
    package init() {}
}
