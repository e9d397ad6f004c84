// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CommandLine
internal import Platform
internal import Receiving
internal import Wire

/// The hook that `serve` and its processes run after a commit.
struct HookOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            Run by 'sh -c' after each commit, before anything else can be written to the target, with the volume's name as $1 \
            and BLOCKFERRY_GENERATION, _ID and _TARGET in the environment. If it fails, the journal says so.
            """, valueName: "command"))
    var postCommit: String?

    @Option(help: ArgumentHelp("Seconds that it may take.", valueName: "seconds"))
    var hookTimeout = 60

    func validate() throws {
        guard (1...3600).contains(hookTimeout) else {
            throw ValidationError("--hook-timeout takes seconds, up to an hour.")
        }
    }

    /// The options for a process that is started.
    var arguments: [String] {
        postCommit.map { ["--post-commit", $0, "--hook-timeout", "\(hookTimeout)"] } ?? []
    }

    /// The standby's state with the hook.
    func home(_ state: StateOptions) throws -> StandbyHome {
        var home = try state.home()
        home.commitHook = postCommit.map { CommitHook($0, seconds: hookTimeout) }
        return home
    }
}

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve source hosts until SIGTERM.",
        discussion: """
            Finishes first what an earlier run left behind. Each connection has a process of its own. Says READY to \
            the service manager when it listens.
            """)

    @Option(
        help: ArgumentHelp("Where to listen: host:port or [v6]:port.", valueName: "address"))
    var listen = "[::]:7441"

    @Option(
        help: ArgumentHelp(
            "Write the port to this file once it listens; for port 0.", valueName: "file"))
    var portFile: String?

    @OptionGroup var hook: HookOptions
    @OptionGroup var journal: JournalOptions
    @OptionGroup var state: StateOptions

    func validate() throws { try GivenText.checkAddress(listen, "--listen") }

    func run() throws {
        let home = try hook.home(state)
        let signals = try Process.descriptor(forSignals: [15, 2])
        _ = try home.identity()
        _ = try home.exportKey()
        let view = try ServiceView(writing: home)
        let listener = try Socket.listen(on: listen, backlog: 1024)
        let port = Socket.localPort(of: listener.rawValue) ?? 0
        let recovery = Recovery(home, log: journal.log)
        let supervisor = Supervisor(
            listener: listener,
            arguments: [
                "--state", state.path, "--supervisor", "\(Process.identifier)", "--log-format",
                journal.logFormat.rawValue,
            ] + hook.arguments,
            checkState: {
                try home.checkAccess()
                // Lack of space for it affects nothing else.
                try? view.refresh()
            }, interrupted: recovery.interrupted,
            log: journal.log)
        let held = try recovery.recoverAll()
        if let portFile { try Directory.replace(portFile, with: Array("\(port)\n".utf8)) }
        journal.log("listening on \(listen), port \(port)")
        // No other thread waits for it: events not in the journal when the daemon ends are written
        // by the next one.
        let teller = EventTeller(home, log: journal.log)
        _ = Thread("journal") { teller.run() }
        try supervisor.run(signals: signals.rawValue, held: held)
    }
}

/// Serves connections for `serve`; descriptor 3 is the channel between the two.
struct WorkerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "worker", shouldDisplay: false)

    @OptionGroup var hook: HookOptions
    @OptionGroup var journal: JournalOptions
    @OptionGroup var state: StateOptions

    @Option var supervisor: Int32

    func run() throws {
        guard Process.endWithParent(supervisor, 9) else { return }
        Process.closeOnExec(3)
        let worker = Worker(
            home: try hook.home(state), software: software, channel: Channel(takingOwnershipOf: 3),
            log: journal.log)
        guard worker.run() else { throw ExitCode(ExitStatus.failed.rawValue) }
    }
}

/// Started by `serve` for volumes that another process held at its start, and for those whose
/// committed generation is not on its target.
struct RecoverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "recover", shouldDisplay: false)

    @OptionGroup var hook: HookOptions
    @OptionGroup var journal: JournalOptions
    @OptionGroup var state: StateOptions

    @Option var supervisor: Int32

    @Argument var volumes: [String]

    func run() throws {
        guard Process.endWithParent(supervisor, 9) else { return }
        Recovery(try hook.home(state), log: journal.log)
            .recover(held: volumes.compactMap { VolumeName($0) })
    }
}
