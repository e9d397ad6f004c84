// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
package import Wire

extension VolumeName: ExpressibleByArgument {
    package init?(argument: String) { self.init(argument) }
}
