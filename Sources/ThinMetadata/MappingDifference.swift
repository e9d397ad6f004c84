// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Comparison of a run of thin blocks in two devices of one pool.
public enum DifferenceKind: String, Hashable, Sendable, CaseIterable {
    /// Both devices map the run to the same data blocks.
    case same
    /// Both devices map the run to different data blocks.
    case different
    /// Only the first device maps the run.
    case leftOnly = "left_only"
    /// Only the second device maps the run.
    case rightOnly = "right_only"
}

/// A run of thin blocks with the same result of the comparison.
public struct DifferenceRun: Hashable, Sendable {
    /// First block of the run.
    public let begin: UInt64
    /// Number of blocks.
    public let length: UInt64
    /// Result of the comparison.
    public let kind: DifferenceKind

    /// Makes a run.
    public init(begin: UInt64, length: UInt64, kind: DifferenceKind) {
        self.begin = begin
        self.length = length
        self.kind = kind
    }
}

/// Joins adjacent blocks of one kind.
private struct RunCollector {
    private var pending: DifferenceRun?

    /// Adds a block to the pending run. If the block starts another run, returns the finished one.
    @inline(__always)
    mutating func append(_ key: UInt64, _ kind: DifferenceKind) -> DifferenceRun? {
        if let last = pending, last.kind == kind, last.begin + last.length == key {
            pending = DifferenceRun(begin: last.begin, length: last.length + 1, kind: kind)
            return nil
        }
        defer { pending = DifferenceRun(begin: key, length: 1, kind: kind) }
        return pending
    }

    mutating func finish() -> DifferenceRun? {
        defer { pending = nil }
        return pending
    }
}

/// The difference between two mapping trees of one pool, in ascending runs.
///
/// Within one state of the metadata, a block has one content, and its keys are absolute. A node
/// that both trees refer to therefore adds the same mappings to both, wherever it hangs, and is
/// skipped in both without being read. The comparison descends level by level; at the bottom it
/// reads only the leaves that are not shared and merges them by key. The cost grows with the
/// change, not with the volume. Memory holds the references of one level and a window of leaves.
public struct MappingDifference {
    private var left: LeafStream
    private var right: LeafStream
    private let includesSame: Bool
    private var collector = RunCollector()

    /// Prepares the comparison: reads the internal nodes.
    ///
    /// - Parameter includesSame: also report shared blocks, which requires reading both trees in
    ///   full.
    init(
        _ store: NodeStore, _ leftRoot: UInt64, _ rightRoot: UInt64, limits: MappingLimits,
        includesSame: Bool
    ) throws(ThinMetadataError) {
        self.includesSame = includesSame
        var leaves: (left: [NodeReference], right: [NodeReference]) = ([], [])
        if includesSame {
            leaves.left = try store.leaves(of: leftRoot)
            leaves.right = leftRoot == rightRoot ? leaves.left : try store.leaves(of: rightRoot)
        } else if leftRoot != rightRoot {
            leaves = try Self.unsharedLeaves(store, leftRoot, rightRoot)
        }
        left = LeafStream(store, leaves: leaves.left, limits: limits)
        right = LeafStream(store, leaves: leaves.right, limits: limits)
    }

    /// The next run, or `nil` at the end.
    public mutating func next() throws(ThinMetadataError) -> DifferenceRun? {
        while true {
            let hasLeft = try left.fill()
            let hasRight = try right.fill()
            let finished: DifferenceRun?
            switch (hasLeft, hasRight) {
            case (true, true): finished = mergeLeaves()
            case (true, false): finished = Self.drain(&left, .leftOnly, into: &collector)
            case (false, true): finished = Self.drain(&right, .rightOnly, into: &collector)
            case (false, false): return collector.finish()
            }
            if let finished { return finished }
        }
    }

    /// Merges until a leaf ends or a run is complete; returns the complete run.
    private mutating func mergeLeaves() -> DifferenceRun? {
        var i = left.position
        var j = right.position
        defer {
            left.position = i
            right.position = j
        }
        let leftEnd = left.end
        let rightEnd = right.end
        while i < leftEnd, j < rightEnd {
            let leftKey = left.keys[i]
            let rightKey = right.keys[j]
            let key = min(leftKey, rightKey)
            let kind: DifferenceKind
            if leftKey == rightKey {
                kind = (left.values[i] ^ right.values[j]) >> 24 == 0 ? .same : .different
                i += 1
                j += 1
                if kind == .same, !includesSame { continue }
            } else if leftKey < rightKey {
                kind = .leftOnly
                i += 1
            } else {
                kind = .rightOnly
                j += 1
            }
            if let finished = collector.append(key, kind) { return finished }
        }
        return nil
    }

    /// Takes the rest of a leaf when the other side has no entries left.
    private static func drain(
        _ stream: inout LeafStream, _ kind: DifferenceKind, into collector: inout RunCollector
    ) -> DifferenceRun? {
        while stream.position < stream.end {
            let key = stream.keys[stream.position]
            stream.position += 1
            if let finished = collector.append(key, kind) { return finished }
        }
        return nil
    }

    /// The leaves of each tree that the other does not contain.
    private static func unsharedLeaves(
        _ store: NodeStore, _ leftRoot: UInt64, _ rightRoot: UInt64
    ) throws(ThinMetadataError) -> (left: [NodeReference], right: [NodeReference]) {
        var left = [NodeReference.root(leftRoot)]
        var right = [NodeReference.root(rightRoot)]
        var leftHeight = try store.height(of: leftRoot)
        var rightHeight = try store.height(of: rightRoot)
        while true {
            if leftHeight == rightHeight { dropShared(&left, &right) }
            if leftHeight == 0, rightHeight == 0 { return (left, right) }
            let level = max(leftHeight, rightHeight)
            if leftHeight == level {
                left = try store.children(of: left)
                leftHeight -= 1
            }
            if rightHeight == level {
                right = try store.children(of: right)
                rightHeight -= 1
            }
        }
    }

    /// Removes the nodes of one level that both trees share from both lists.
    ///
    /// A shared node has the same lowest key in both trees: the kernel copies a node before it
    /// changes the keys below it. A violation would cost only time: the node would be read and
    /// found equal.
    private static func dropShared(_ left: inout [NodeReference], _ right: inout [NodeReference]) {
        var leftOnly: [NodeReference] = []
        var rightOnly: [NodeReference] = []
        var i = 0
        var j = 0
        while i < left.count, j < right.count {
            let (first, second) = (left[i], right[j])
            if first.low <= second.low { i += 1 }
            if second.low <= first.low { j += 1 }
            if first.low == second.low, first.block == second.block { continue }
            if first.low <= second.low { leftOnly.append(first) }
            if second.low <= first.low { rightOnly.append(second) }
        }
        left = leftOnly + left[i...]
        right = rightOnly + right[j...]
    }
}
