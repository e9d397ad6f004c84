// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Why bytes are not a valid structure of the protocol.
///
/// It reports the first violation in the order of Protocol/Specification.md.
package struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The violated rule; raw values are the reasons named in Protocol/Vectors.
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
        case badVersion = "bad-version"
        case badVersionRange = "bad-version-range"
        case versionNotOffered = "version-not-offered"
        case featuresNotOffered = "features-not-offered"
        case badStringLength = "bad-string-length"
        case badStringUTF8 = "bad-string-utf8"
        case badStringCharacters = "bad-string-characters"
        case badState = "bad-state"
        case badTargetKind = "bad-target-kind"
        case committedMismatch = "committed-mismatch"
        case durableWithoutTransfer = "durable-without-transfer"
        case badKind = "bad-kind"
        case badTagAlgorithm = "bad-tag-algorithm"
        case zeroTransfer = "zero-transfer"
        case zeroLineage = "zero-lineage"
        case badNumber = "bad-number"
        case badParent = "bad-parent"
        case badVolumeSize = "bad-volume-size"
        case badTagKey = "bad-tag-key"
        case badMembers = "bad-members"
        case badSegmentGrowth = "bad-segment-growth"
        case badGroup = "bad-group"
        case badComparedRoot = "bad-compared-root"
        case zeroRoot = "zero-root"
        case badCount = "bad-count"
        case badBase = "bad-base"
        case pageDigest = "page-digest"
        case rootMismatch = "root-mismatch"
        case plannedSegments = "planned-segments"
        case badRecordCount = "bad-record-count"
        case contentLimit = "content-limit"
        case badCode = "bad-code"
        case badRetryAfter = "bad-retry-after"
        case badPhase = "bad-phase"
        case donePastTotal = "done-past-total"
        case badEncoding = "bad-encoding"
        case zeroLength = "zero-length"
        case extentOverflow = "extent-overflow"
        case offsetAlignment = "offset-alignment"
        case dataTooLong = "data-too-long"
        case tagCount = "tag-count"
        case storedLength = "stored-length"
        case pastVolumeEnd = "past-volume-end"
        case lengthAlignment = "length-alignment"
        case order
        case zstdFrame = "zstd-frame"
        case zstdLength = "zstd-length"
        case zstdContent = "zstd-content"
        case tagMismatch = "tag-mismatch"
        case segmentIndex = "segment-index"
        case recordCount = "record-count"
        case contentMismatch = "content-mismatch"
        case endOffset = "end-offset"
        case segmentDigest = "segment-digest"
        case beginMismatch = "begin-mismatch"
        case senderKey = "sender-key"
        case segmentCount = "segment-count"
        case deltaDigest = "delta-digest"
        case recordsAfterSeal = "records-after-seal"
        case volumeNotCovered = "volume-not-covered"
        case badMode = "bad-mode"
        case zeroLogID = "zero-log-id"
        case beginLength = "begin-length"
        case heldSegments = "held-segments"
        case logID = "log-id"
        case recordBytes = "record-bytes"
        case padding
        case keyLength = "key-length"
        case zeroKey = "zero-key"
        case fileLength = "file-length"
        case signatureLength = "signature-length"
        case badPrefix = "bad-prefix"
        case badBase32 = "bad-base32"
        case checksum
        case badAddress = "bad-address"
    }

    /// Name of the structure, such as "BEGIN".
    package let structure: String
    package let reason: Reason

    package init(_ structure: String, _ reason: Reason) {
        self.structure = structure
        self.reason = reason
    }

    package var description: String { "\(structure): \(reason.rawValue)" }
}
