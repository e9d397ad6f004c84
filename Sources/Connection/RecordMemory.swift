// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Wire

/// One record in memory, on its way from the network to the log or the target.
///
/// The stored bytes begin at a page's border, where direct I/O wants them; header and tags lie right
/// before, so that the whole record is one run of bytes.
package final class RecordMemory: Sendable {
    /// Where the stored bytes of a well-formed record begin.
    package static let contentStart = AlignedBuffer.alignment

    /// A page for header and tags, the greatest content, and a page for what a malformed record may have
    /// too much.
    package let memory = AlignedBuffer(
        byteCount: contentStart + Limits.recordContent + AlignedBuffer.alignment)

    /// Makes one.
    package init() {}
}
