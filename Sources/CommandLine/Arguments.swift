// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
package import Catalog
package import Wire

extension ReceiverName: ExpressibleByArgument {
    package init?(argument: String) { self.init(argument) }
}

extension VolumeName: ExpressibleByArgument {
    package init?(argument: String) { self.init(argument) }
}
