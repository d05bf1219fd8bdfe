"""Where things are, as seen from inside the toolbox (the tests set other places)."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("NEST_REPOSITORY", "/nest"))
CACHE = Path(os.environ.get("NEST_STORE", "/cache"))    # kept between clones
SOURCE = Path("/src")               # the kernel tree being built, at one path for ccache's sake

BUILD = ROOT / "build"
LOG = BUILD / "log"
TREE = BUILD / "linux"              # the series as a git tree
PATCHES = ROOT / "patches"
CONFIG = ROOT / "config"
GUEST = ROOT / "guest"

USERLAND = CACHE / os.environ.get("NEST_USERLAND", "userland.tar")
