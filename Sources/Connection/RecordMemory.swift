// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Wire

/// One record in memory, on its way from the network to the log or the target.
///
/// The stored bytes start on a page boundary, as direct I/O requires; header and tags directly
/// precede them, so the record is one contiguous range.
package final class RecordMemory: Sendable {
    /// Offset at which the stored bytes of a well-formed record start.
    package static let contentStart = AlignedBuffer.alignment

    /// A page for header and tags, the largest content, and a page for the excess of a malformed
    /// record.
    package let memory = AlignedBuffer(
        byteCount: contentStart + Limits.recordContent + AlignedBuffer.alignment)

    package init() {}
}
