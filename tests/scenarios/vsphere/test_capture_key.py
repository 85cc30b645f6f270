"""Captures of vSphere with a capture key: fulls, incrementals by CBT, and audits."""

import random
from dataclasses import replace
from pathlib import Path

from cbtfs.core.audit import Sampling
from tests.roles import acting, create_with_capture_keys, role_of
from tests.scenarios.vsphere.site import MIB, VM, Lab


def test_a_proxy_captures_changes_that_it_cannot_read(tracked: Lab, tmp_path: Path) -> None:
    path, rng = tmp_path / "encrypted", random.Random(1)
    master = create_with_capture_keys(path, 65536)
    lab = replace(tracked, repository=path, points=[])
    (vm,) = [found for found in lab.sim.do.vms() if found["name"] == VM]
    with acting(role_of(master)):
        for _ in range(3):
            lab.sim.do.write(vm["id"], 2000, rng.randrange(MIB // 2), rng.randbytes(9000))
            lab.ingest(audit=Sampling(0.5))
        lab.sim.do.discard(vm["id"], 2000, 1000, MIB)
        last = lab.ingest(audit=Sampling(0.5))
        lab.assert_clean()

    assert [point.kind for point in lab.points] == ["full", *["incremental"] * 3]
    assert last.manifest.of_kind("disk")[0].audit is not None
    lab.assert_all_true()
