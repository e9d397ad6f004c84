# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Scenarios in which a program makes its own state: invite, serve, pair."""

from __future__ import annotations

import subprocess

from scenarios import Full


class Invite(Full):
    """The first command on a standby: it makes the state directory, the key, the catalog and the target."""

    name, sides = "first-invite", ("command",)

    def build(self) -> None:
        self.make()

    def command(self) -> list:
        return ["blockferryd", "invite", "vol", "--target", self.target["vol"], "--create", "--address",
                f"127.0.0.1:{self.site.port}"]

    def __init__(self, test) -> None:
        super().__init__(test)
        # The daemon of the beginning has made a state, which is to be made anew.
        self.forget()

    def forget(self) -> None:
        self.site.restore()
        for path in (self.site.standby, self.site.source):
            if path.exists():
                subprocess.run(["rm", "-r", "--", path], check=True)
        self.target["vol"].unlink(missing_ok=True)
        self.site.save(*self.source.values())

    def start(self, side: str) -> subprocess.Popen | None:
        self.target["vol"].unlink(missing_ok=True)
        self.site.control.arm()
        return self.site.begin(*self.command(), preload=self.site.control.environment(*self.roots(side)))

    def check(self, acknowledged: bool) -> str:
        status = self.site.run("blockferryd", "status", "--json")
        self.must(status)
        known = [volume["state"] for volume in status.json["volumes"]]
        self.test.assertIn(known, ([], ["empty"]))
        return "new" if known else "old"

    def finish(self) -> None:
        invitation = self.must(self.again()).out.strip()
        self.must(self.site.run("blockferry", "pair", invitation, "--name", "standby", "--own-name", "source"))
        self.must(self.site.send("vol", self.source["vol"]))
        self.test.assertEqual(self.digests(self.target), self.digests(self.source))
        self.follow()


class Serve(Invite):
    """The daemon's first start, on nothing."""

    name, sides = "first-serve", ("standby",)

    def start(self, side: str) -> subprocess.Popen | None:
        self.target["vol"].unlink(missing_ok=True)
        self.site.control.arm()
        self.site.begin_daemon(self.site.control.environment(*self.roots(side)))
        return None


class Pair(Full):
    """The source's first command; what it uses up on the standby is an invitation."""

    name, sides = "first-pair", ("source", "standby")

    def build(self) -> None:
        self.make()
        self.invitation = self.site.invite("vol", self.target["vol"])

    def command(self) -> list:
        return ["blockferry", "pair", self.invitation, "--name", "standby", "--own-name", "source"]

    def check(self, acknowledged: bool) -> str:
        self.test.assertEqual(self.found_states(), {"empty"})
        return "new" if acknowledged else "old"

    def finish(self) -> None:
        result = self.again()
        if result.code:
            # The invitation was used up before its answer was heard: a new one is needed, and the answer says so.
            self.test.assertEqual((result.code, "invitation" in result.error), (6, True), result)
            invitation = self.site.invite("vol", self.target["vol"])
            self.must(self.site.run("blockferry", "pair", invitation, "--name", "standby", "--own-name", "source"))
        self.must(self.site.send("vol", self.source["vol"]))
        self.test.assertEqual(self.digests(self.target), self.digests(self.source))
        self.follow()
