# SPDX-License-Identifier: Apache-2.0
"""Make a dataset of triplets from image-caption pairs: hard negative captions and images, checks and filters.

    python examples/generate_tripletdata.py                        # the built-in data, about a minute on two CPU cores
    python examples/generate_tripletdata.py --config tripletdata_paper --data DIR --output OUT

The flags are those of `tripletclip generate`; `--help` lists them. The same command continues a run that was stopped.
"""

from __future__ import annotations

import sys

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.generation.arguments import main

DEFAULT_CONFIG = "tripletdata_scenes"  # of the package; `--print_config` shows it

if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:], default_config=DEFAULT_CONFIG)))
