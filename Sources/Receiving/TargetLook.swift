// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Platform
internal import Staging
internal import Wire

/// What can be seen of a volume's target without reading it.
package struct TargetLook: Equatable, Sendable {
    /// Whether something is at its path.
    package let isPresent: Bool
    /// Why it cannot be what the catalog says; nil if nothing speaks against it.
    package let problem: String?
    /// Whether zeros take storage on a thin volume, since nothing proves that what is given back reads as zeros; nil for what is
    /// no thin volume.
    package let wastesStorage: Bool?

    /// Looks. A promoted target is its operator's: only its presence is told.
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
