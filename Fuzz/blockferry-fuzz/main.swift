// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CFuzzer
import Glibc

let name = unsafe getenv("FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
guard targets.contains(where: { $0.name == name }) else {
    for target in targets { print(target.name, target.length) }
    exit(name == "list" ? 0 : 2)
}

var count = CommandLine.argc
var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
exit(
    unsafe LLVMFuzzerRunDriver(&count, &arguments) { data, size in
        guard let data = unsafe data else { return 0 }
        // SAFETY: libFuzzer lends `size` bytes for the length of the call.
        chosen(unsafe Array(UnsafeBufferPointer(start: data, count: size)))
        return 0
    })
