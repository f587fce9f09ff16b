"""Builds the native library with cargo as a part of building the package; the rest is in pyproject.toml."""

import os
import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit(f"setuptools {setuptools.__version__} is too old: pip install \"setuptools>=70.1,<82\"")

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
import build_native  # noqa: E402


class BuildWithLibrary(build_py):
    """Adds the compiled library to the package; an editable install has it in the source tree."""

    def run(self):
        super().run()
        if self.editable_mode:
            # ./run has built it by then.
            if os.environ.get("RIVULET_SKIP_NATIVE") == "1":
                return
            out = ROOT / "python" / "rivulet" / "lib"
        else:
            out = Path(self.build_lib) / "rivulet" / "lib"
            # build/ survives between builds; a wheel holds the library of one PyTorch alone.
            shutil.rmtree(out, ignore_errors=True)
        build_native.build(out, build_native.find_torch())


class AnyPythonWheel(bdist_wheel):
    """The library is for one platform and one PyTorch, but for every Python."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """Without this the wheel would claim to fit every platform."""

    def has_ext_modules(self):
        return True


try:
    torch_version = build_native.torch_version(build_native.find_torch())
except build_native.BuildError as error:
    sys.exit(f"rivulet: {error}")

setup(
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": AnyPythonWheel},
    distclass=PlatformDistribution,
    install_requires=[f"torch=={torch_version}.*"],
)
