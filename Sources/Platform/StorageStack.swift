// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A file or device with everything below it: the devices of a device-mapper device, the disk of a
/// partition, the file of a loop device, the device of a file's file system.
///
/// The kernel's numbers are valid only now: compare stacks at once and do not store them.
package struct StorageStack: Sendable {
    /// One layer.
    package enum Layer: Hashable, Sendable {
        case device(DeviceNumber)
        case file(system: DeviceNumber, inode: UInt64)
    }

    /// The file or device itself.
    package let itself: Layer
    /// All layers, including `itself`.
    package let layers: Set<Layer>
    /// Paths of the files behind loop devices among the layers.
    package let backingFiles: [String]

    /// Makes the stack of an open file.
    package init(_ file: File) throws(SystemCallError) {
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe fstat(file.descriptor, &raw) == 0 else {
            throw SystemCallError("fstat", file.path)
        }
        itself = Self.layer(raw)
        let device: DeviceNumber =
            switch itself {
            case .device(let number): number
            case .file(let system, _): system
            }
        var found: Set<Layer> = [itself]
        var files: [String] = []
        Self.collect(BlockDevice(device), into: &found, &files)
        layers = found
        backingFiles = files
    }

    private static func collect(
        _ device: BlockDevice, into layers: inout Set<Layer>, _ files: inout [String]
    ) {
        guard layers.insert(.device(device.number)).inserted || layers.count == 1 else {
            return
        }
        for below in device.below { collect(below, into: &layers, &files) }
        guard let path = device.backingFile, let file = try? File(path: path),
            let stack = try? StorageStack(file)
        else { return }
        layers.formUnion(stack.layers)
        files += [path] + stack.backingFiles
    }

    /// The layer that a path leads to, without opening it; `nil` if the path does not exist.
    package static func layer(at path: String) -> Layer? {
        var raw = stat()
        // SAFETY: writes the struct passed; the path is a C string for the length of the call.
        guard unsafe stat(path, &raw) == 0 else { return nil }
        return layer(raw)
    }

    private static func layer(_ raw: stat) -> Layer {
        let isDevice = clinux_mode_is_block_device(raw.st_mode) != 0
        let number = isDevice ? raw.st_rdev : raw.st_dev
        let device = DeviceNumber(major: clinux_major(number), minor: clinux_minor(number))
        return isDevice ? .device(device) : .file(system: device, inode: UInt64(raw.st_ino))
    }

    /// Whether both are the same, or one lies above the other.
    package func overlaps(_ other: StorageStack) -> Bool {
        layers.contains(other.itself) || other.layers.contains(itself)
    }
}
