# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What `sslyze` finds at the port (F3). Debian has no package of it: `campaign` gets it from the Python Package Index.

Its scan of early data wants a web server's answer and ends with an error; without tickets (`resum`) there is none."""

import json
import subprocess
import sys
import unittest

from rogue import Standby

VERSIONS = {"ssl_2_0": False, "ssl_3_0": False, "tls_1_0": False, "tls_1_1": False, "tls_1_2": False, "tls_1_3": True}
SCANS = ("sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "compression", "openssl_ccs", "fallback", "heartbleed",
         "robot", "reneg", "elliptic_curves", "ems", "resum")


class Sslyze(Standby):
    def test_sslyze(self) -> None:
        report = self.site.path / "sslyze.json"
        subprocess.run([sys.executable, "-W", "ignore", "-m", "sslyze", f"--json_out={report}", *(f"--{scan}" for scan in SCANS),
                        f"127.0.0.1:{self.site.port}"], check=False, timeout=300, stdout=subprocess.DEVNULL)
        scan, = json.loads(report.read_text())["server_scan_results"]
        self.assertEqual(scan["scan_status"], "COMPLETED", scan["connectivity_error_trace"])
        found = {name: part for name, part in scan["scan_result"].items() if part["status"] != "NOT_SCHEDULED"}
        print(f"sslyze: {sorted((name, part['status']) for name, part in found.items())}", flush=True)
        self.assertEqual(len(found), len(SCANS))
        self.assertEqual({part["status"] for part in found.values()}, {"COMPLETED"})
        result = {name: part["result"] for name, part in found.items()}
        for version, isSpoken in VERSIONS.items():
            part = result[f"{version}_cipher_suites"]
            self.assertEqual(part["is_tls_version_supported"], isSpoken, version)
            self.assertEqual(len(part["accepted_cipher_suites"]), 3 if isSpoken else 0, version)
        self.assertFalse(result["tls_compression"]["supports_compression"])
        self.assertFalse(result["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"])
        self.assertFalse(result["heartbleed"]["is_vulnerable_to_heartbleed"])
        self.assertEqual(result["robot"]["robot_result"], "NOT_VULNERABLE_RSA_NOT_SUPPORTED")
        self.assertFalse(result["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"])
        self.assertEqual({curve["name"] for curve in result["elliptic_curves"]["supported_curves"]}, {"X25519", "secp256r1"})
        for kind in ("session_id", "tls_ticket"):
            self.assertEqual(result["session_resumption"][f"{kind}_resumption_result"], "SERVER_IS_TLS_1_3_ONLY", kind)


if __name__ == "__main__":
    unittest.main()
