// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Objects
internal import Platform
internal import Staging
internal import Wire

/// The owner of a target: one volume of one standby.
struct TargetOwner {
    private let home: StandbyHome
    private let object: TargetObject
    private let stack: StorageStack

    init(_ home: StandbyHome, _ object: TargetObject) throws {
        self.home = home
        self.object = object
        do { stack = try StorageStack(object.file) } catch { throw TargetError.failed(error) }
    }

    private var state: String { Directory.resolved(home.path) }

    /// Refuses a target that belongs to another volume, lies above or below another volume's
    /// target, or carries another standby's mark.
    ///
    /// - Parameters:
    ///   - others: the volumes of this standby; the named one is skipped.
    ///   - mayTakeOver: accept another standby's mark.
    func check(
        _ name: VolumeName, among others: [StandbyVolume], mayTakeOver: Bool = false
    ) throws(TargetError) {
        for other in others where other.name != name && isTarget(of: other) {
            throw .taken(object.path, by: "it belongs to volume \(other.name), or to its target")
        }
        guard !mayTakeOver else { return }
        for mark in [object.mark].compactMap({ $0 }) + TargetMark.below(stack)
        where Self.isOfAnother(mark, than: state) {
            throw .taken(
                object.path,
                by:
                    "it, or a file below it, is marked as the target of volume \(mark.volume) of the standby in "
                    + "\(mark.state); if that directory is an old copy of this one, move it away")
        }
    }

    private func isTarget(of other: StandbyVolume) -> Bool {
        if let registered = ObjectIdentity(other.targetIdentity),
            case .same = registered.relation(to: object.identity),
            registered.kind == .device || registered.object["mark"] != nil && object.mark != nil
        {
            return true
        }
        if isBacking(other) { return true }
        // Its path may lead to something else than its target.
        guard let there = try? TargetObject(path: other.targetPath),
            (try? there.compare(registered: other.targetIdentity)) != nil,
            let below = try? StorageStack(there.file)
        else { return false }
        return below.overlaps(stack)
    }

    /// Whether the file backs the loop device that is another volume's target, attached or not.
    private func isBacking(_ other: StandbyVolume) -> Bool {
        guard object.kind == .file, let registered = ObjectIdentity(other.targetIdentity),
            let facts = try? object.file.objectFacts()
        else { return false }
        let names = facts.keys.filter { registered.object["backing-\($0)"] != nil }
        return names.contains("inode")
            && names.allSatisfy { registered.object["backing-\($0)"] == facts[$0] }
    }

    /// Refuses what this program itself needs: everything in the state directory and the devices
    /// below it.
    ///
    /// It opens none of these files: closing the catalog's file would drop this process's locks on
    /// it.
    static func checkOwnState(_ home: StandbyHome, _ path: String) throws(TargetError) {
        let state = Directory.resolved(home.path)
        let isInside = Directory.resolved(path).hasPrefix(state + "/")
        let layer = StorageStack.layer(at: path)
        let below = (try? File(path: state)).flatMap { try? StorageStack($0) }
        let isOurs =
            layer.map { layer in
                below?.layers.contains(layer) == true || files(below: state).contains(layer)
            } ?? false
        guard isInside || isOurs else { return }
        throw .taken(path, by: "the state of this standby is in it (\(state))")
    }

    private static func files(below folder: String) -> Set<StorageStack.Layer> {
        var layers: Set<StorageStack.Layer> = []
        for name in (try? Directory.names(in: folder)) ?? [] {
            let path = "\(folder)/\(name)"
            if let layer = StorageStack.layer(at: path) { layers.insert(layer) }
            layers.formUnion(files(below: path))
        }
        return layers
    }

    /// Takes a target for a volume: writes the mark on a file. A crash afterwards leaves a mark
    /// that no volume of this standby has; registering the file again replaces it.
    ///
    /// - Returns: the target's identity from now on.
    func claim(for name: VolumeName) throws(TargetError) -> ObjectIdentity {
        try Self.mark(object, state: state, name, TargetMark(state: state, volume: name.text))
    }

    private static func mark(
        _ object: TargetObject, state: String, _ name: VolumeName, _ mark: TargetMark
    ) throws(TargetError) -> ObjectIdentity {
        guard object.kind == .file else { return object.identity }
        do { _ = try mark.write(on: object.file) } catch { throw .failed(error) }
        return try TargetObject(path: object.path).identity
    }

    /// Whether a mark belongs to another standby that still exists: this state may be a copy of its
    /// directory.
    private static func isOfAnother(_ mark: TargetMark, than state: String) -> Bool {
        mark.state != state && Directory.exists(mark.state + "/catalog.sqlite")
    }

    /// Removes a volume's mark from its file, if that is still the volume's file and carries no
    /// other standby's mark. Best effort: a mark that no volume has is ignored.
    static func release(_ home: StandbyHome, _ object: TargetObject, _ volume: StandbyVolume) {
        guard let mark = object.mark, !isOfAnother(mark, than: Directory.resolved(home.path)),
            (try? object.compare(registered: volume.targetIdentity)) != nil
        else { return }
        try? TargetMark.remove(from: object.file)
    }

    /// Updates the mark on the volume's file with the current state directory and name of the
    /// volume.
    ///
    /// - Returns: the target's identity from now on.
    func refreshMark(for name: VolumeName) throws(TargetError) -> ObjectIdentity {
        guard var mark = object.mark else { return try claim(for: name) }
        guard mark.state != state || mark.volume != name.text, !Self.isOfAnother(mark, than: state)
        else { return object.identity }
        mark.state = state
        mark.volume = name.text
        return try Self.mark(object, state: state, name, mark)
    }
}
