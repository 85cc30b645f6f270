"""The demo with a repository in a bucket of SeaweedFS: python -m tools.s3.demo [ARGUMENT…]."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.s3.servers import BUCKET, seaweed


def main() -> int:
    """Start a server, run `cbtfs demo` with the arguments of this program, return its exit code."""
    with tempfile.TemporaryDirectory(prefix="cbtfs-demo-s3-") as name:
        folder = Path(name)
        with seaweed(folder / "server") as server:
            print(f"SeaweedFS serves S3 at {server.endpoint}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "cbtfs", "demo", *sys.argv[1:]]
            state = {"CBTFS_STATE": str(folder / "state")}
            return subprocess.run(
                [*command, "--repo", f"s3://{BUCKET}/demo"],
                env={**os.environ, **server.environment, **state},
                check=False,
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
