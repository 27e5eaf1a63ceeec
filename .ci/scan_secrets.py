"""Scan every file git tracks for secrets; any finding fails. Fixtures mark theirs with `pragma: allowlist secret`."""

import subprocess
import sys
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings

# Digests and public vectors look like high-entropy secrets and are not.
SKIPPED_SUFFIXES = {".bin", ".png", ".svg"}
SKIPPED_FILES = {"constraints.txt"}
SKIPPED_FOLDERS = {"tests/vectors"}


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True).stdout.decode()
    files = [
        name
        for name in listed.split("\0")
        if name
        and Path(name).is_file()
        and name not in SKIPPED_FILES
        and Path(name).suffix not in SKIPPED_SUFFIXES
        and not any(name.startswith(folder) for folder in SKIPPED_FOLDERS)
    ]
    found = SecretsCollection()
    with default_settings():
        for name in files:
            found.scan_file(name)
    for name, secret in found:
        sys.stdout.write(f"{name}:{secret.line_number}: {secret.type}\n")
    sys.stdout.write(f"{len(files)} files scanned, {len(list(found))} findings\n")
    return 1 if list(found) else 0


if __name__ == "__main__":
    sys.exit(main())
