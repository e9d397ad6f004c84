// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Staging
internal import Wire

/// What can be seen of a volume's target without reading it.
package struct TargetLook: Equatable, Sendable {
    /// Whether something is at its path.
    package let isPresent: Bool
    /// Why it cannot be what the catalog says; nil if nothing speaks against it.
    package let problem: String?

    /// Looks. A promoted target is its operator's: only its presence is told.
    package init(_ volume: StandbyVolume) {
        var isPresent = true
        var problem: String?
        do throws(TargetError) {
            problem = try Self.problem(volume, try TargetObject(path: volume.targetPath))
        } catch {
            if case .missing = error { isPresent = false }
            problem = "\(error)"
        }
        self.isPresent = isPresent
        self.problem = volume.state == .promoted ? nil : problem
    }

    private static func problem(
        _ volume: StandbyVolume, _ object: TargetObject
    ) throws(TargetError) -> String? {
        try object.compare(registered: volume.targetIdentity)
        try object.checkResumed(patience: 0)
        guard [.consistent, .staging].contains(volume.state),
            let size = volume.committed?.head.volumeSize
        else { return nil }
        return object.problem(holding: size)
    }
}
