"""Provenance: every results file says machine, commit and versions, as plain data."""

import json
import os

from mutoscope.core.provenance import PACKAGES, provenance


def test_provenance_is_plain_and_whole():
    found = json.loads(json.dumps(provenance()))
    assert found["cores"] == os.cpu_count() and found["processor"]
    assert set(found["packages"]) == set(PACKAGES) and found["packages"]["torch"] != "absent"
    assert found["date"].endswith("+00:00")
    assert found["commit"] == "unknown" or len(found["commit"].removesuffix("+dirty")) >= 12
