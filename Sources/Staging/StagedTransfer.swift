// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
package import Wire

/// The valid part of an unfinished generation's staging log.
package struct StagedTransfer {
    /// Header of the log.
    package let header: StagingLogFormat.Header
    /// The valid segments in order.
    package let seals: [Seal]
    /// Position of each segment and of the next one to come, in bytes.
    private let starts: [UInt64]

    /// Reads and proves a log from its first byte; the first invalid segment ends it.
    ///
    /// - Parameter poll: called with each record; throwing ends the read.
    package init(
        reading path: String, algorithm: TagAlgorithm, key: TagKey,
        poll: () throws -> Void = {}
    ) throws {
        let reader = try StagingLogReader(path: path)
        header = reader.header
        let proof = ContentProof(algorithm: algorithm, key: key)
        var checker = TransferChecker(reader.header.begin)
        var position = reader.start
        var seals: [Seal] = []
        var starts = [position.byte]
        walking: while true {
            do throws(StagingLogReader.WalkError<any Error>) {
                let (seal, next) = try reader.walk(position, proof, &checker) {
                    (_, _) throws(any Error) in try poll()
                }
                seals.append(seal)
                starts.append(next.byte)
                position = next
            } catch {
                switch error {
                case .body(let stop): throw stop
                case .log(.failed(let failure)): throw StagingLogError.failed(failure)
                case .log: break walking
                }
            }
        }
        self.seals = seals
        self.starts = starts
    }

    /// Position after the first `count` segments, in bytes.
    package func end(after count: Int) -> UInt64 { starts[count] }

    /// A checker that continues after the first `count` segments.
    package func checker(after count: Int) throws(WireError) -> TransferChecker {
        var checker = TransferChecker(header.begin)
        for seal in seals.prefix(count) { try checker.skip(seal) }
        return checker
    }
}

/// Applies a committed staging log, which brings the target from one generation to the next.
///
/// It may be repeated any number of times: records hold content, not differences.
package struct Redo {
    private let path: String
    private let record: GenerationRecord
    private let algorithm: TagAlgorithm
    private let key: TagKey

    /// Prepares generation `record`, whose log is at `path`.
    package init(path: String, record: GenerationRecord, key: TagKey) {
        self.path = path
        self.record = record
        algorithm = record.head.tagAlgorithm
        self.key = key
    }

    /// Why a generation could not be applied to the target.
    package enum Failure: Error, CustomStringConvertible {
        case log(StagingLogError)
        case target(TargetError)
        /// The log is valid, but belongs to another generation.
        case otherGeneration(WireError)
        /// The caller stopped the operation.
        case stopped(any Error)

        package var description: String {
            switch self {
            case .log(let error): error.description
            case .target(let error): error.description
            case .otherGeneration(let error):
                "the staging log does not hold the generation: \(error)"
            case .stopped(let error): "\(error)"
            }
        }
    }

    /// Reads the whole log and proves that it holds exactly the generation. It does not touch the
    /// target.
    ///
    /// - Parameter body: receives each record with its proven content; zeros and unmapped ranges
    ///   have none. Throwing ends the proof.
    /// - Throws: `Failure`, or what `body` throws.
    package func prove(
        _ body: (_ record: RecordHeader, _ content: ContentProof.Content?) throws -> Void
    ) throws {
        do throws(Failure) {
            try walk({ .stopped($0) }, body)
        } catch {
            if case .stopped(let reason) = error { throw reason }
            throw error
        }
    }

    /// Writes the generation to the target and flushes it.
    package func apply(
        to target: Target, _ progress: (_ done: UInt64) -> Void
    ) throws(Failure) {
        do { try target.prepare(for: record.head.volumeSize) } catch { throw .target(error) }
        try walk({ .target($0) }) { (record, content) throws(TargetError) in
            if let content {
                try target.write(
                    content.memory, from: content.offset, count: content.count, at: record.offset)
                progress(UInt64(content.count))
            } else {
                try target.zero(record.offset, count: record.length)
            }
        }
        do {
            try target.trim(to: record.head.volumeSize)
            try target.sync()
        } catch {
            throw .target(error)
        }
    }

    private func walk<Problem: Error>(
        _ failure: (Problem) -> Failure, _ body: StagingLogReader.RecordBody<Problem>
    ) throws(Failure) {
        do {
            let reader = try StagingLogReader(path: path)
            let proof = ContentProof(algorithm: algorithm, key: key)
            var checker = TransferChecker(reader.header.begin)
            var position = reader.start
            while position.index < record.segmentCount {
                position = try reader.walk(position, proof, &checker, body).next
            }
            try checker.check(record, sender: record.senderKey)
        } catch let error as StagingLogError {
            throw .log(error)
        } catch let error as StagingLogReader.WalkError<Problem> {
            switch error {
            case .log(let error): throw .log(error)
            case .body(let error): throw failure(error)
            }
        } catch let error as WireError {
            throw .otherGeneration(error)
        } catch {
            preconditionFailure("the body throws nothing else: \(error)")
        }
    }
}
