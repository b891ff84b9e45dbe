#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Repeat an experiment: every method on equal data and equal steps, several seeds, controls and paired tests.

    python examples/reproduce.py --experiment main --scale scenes
    python examples/reproduce.py --experiment main --scale photos --data DIR --model CLIP
    python examples/reproduce.py --experiment modality --scale paper --data cc3m   # prints the commands

Each run has a folder of its own in `--output_dir`: one that is finished is kept, also for other experiments, and one
that was stopped goes on from its newest complete checkpoint. `EXPERIMENT/comparison.md`, `.json` and `.png` are
written anew after each run. Flags that are not listed here go to every run. docs/reproduction.md says what each
experiment found.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.comparison.main import main

if __name__ == "__main__":
    script = Path(__file__).with_name("pretrain.py")
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:], script, description=__doc__)))
