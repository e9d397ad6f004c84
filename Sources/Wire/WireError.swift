// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Why bytes are not a valid structure of the protocol.
///
/// The first violation in the order of Protocol/Specification.md is reported.
package struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The rule that was broken; raw values are the reasons named in Protocol/Vectors.
    package enum Reason: String, Sendable, CaseIterable {
        case truncated
        case trailingBytes = "trailing-bytes"
        case headerChecksum = "header-checksum"
        case reservedBits = "reserved-bits"
        case unknownType = "unknown-type"
        case payloadTooLong = "payload-too-long"
        case sequence
        case payloadChecksum = "payload-checksum"
        case badMagic = "bad-magic"
        case badFormat = "bad-format"
        case badVersionRange = "bad-version-range"
        case badStringLength = "bad-string-length"
        case badStringUTF8 = "bad-string-utf8"
        case badStringCharacters = "bad-string-characters"
        case badState = "bad-state"
        case badTargetKind = "bad-target-kind"
        case badKind = "bad-kind"
        case badTagAlgorithm = "bad-tag-algorithm"
        case badTransfer = "bad-transfer"
        case badLineage = "bad-lineage"
        case badNumber = "bad-number"
        case badParent = "bad-parent"
        case badVolumeSize = "bad-volume-size"
        case badTagKey = "bad-tag-key"
        case badSegmentCount = "bad-segment-count"
        case badRecordCount = "bad-record-count"
        case badContent = "bad-content"
        case badCode = "bad-code"
        case badPhase = "bad-phase"
        case badProgress = "bad-progress"
        case badEncoding = "bad-encoding"
        case badLength = "bad-length"
        case badOffset = "bad-offset"
        case badTagCount = "bad-tag-count"
        case badStoredLength = "bad-stored-length"
        case pastVolumeEnd = "past-volume-end"
        case badAlignment = "bad-alignment"
        case badOrder = "bad-order"
        case badCompression = "bad-compression"
        case tagMismatch = "tag-mismatch"
        case digestMismatch = "digest-mismatch"
        case checksum
        case badMode = "bad-mode"
        case badLogID = "bad-log-id"
        case badBeginLength = "bad-begin-length"
        case badSegmentIndex = "bad-segment-index"
        case badRecordBytes = "bad-record-bytes"
        case badCharacters = "bad-characters"
    }

    /// The structure, such as "BEGIN".
    package let structure: String
    /// The rule.
    package let reason: Reason

    /// Makes the error.
    package init(_ structure: String, _ reason: Reason) {
        self.structure = structure
        self.reason = reason
    }

    package var description: String { "\(structure): \(reason.rawValue)" }
}
