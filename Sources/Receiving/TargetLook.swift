// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Platform
internal import Staging
internal import Wire

/// Facts of a volume's target that need no read.
package struct TargetLook: Equatable, Sendable {
    /// Whether its path exists.
    package let isPresent: Bool
    /// Why it cannot be what the catalog says; `nil` if there is no sign of that.
    package let problem: String?
    /// Whether zeros take up storage on a thin volume, because discarded blocks are not proven to
    /// read as zeros; `nil` for other targets.
    package let wastesStorage: Bool?

    /// Looks at the target. A promoted target belongs to the operator: only its presence is
    /// checked.
    package init(_ volume: StandbyVolume) {
        var isPresent = true
        var problem: String?
        var wastesStorage: Bool?
        do throws(TargetError) {
            let object = try TargetObject(path: volume.targetPath)
            if let device = object.device, device.isThin {
                wastesStorage =
                    Zeroing.method(of: device, byteCount: object.byteCount) == .write
            }
            problem = try Self.problem(volume, object)
        } catch {
            if case .missing = error { isPresent = false }
            problem = "\(error)"
        }
        self.isPresent = isPresent
        self.problem = volume.state == .promoted ? nil : problem
        self.wastesStorage = volume.state == .promoted ? nil : wastesStorage
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
