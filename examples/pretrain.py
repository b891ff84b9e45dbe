# SPDX-License-Identifier: Apache-2.0
"""Pretrain a CLIP on hard negative pairs.

    accelerate launch examples/pretrain.py                      # TripletCLIP on the built-in data, minutes on a CPU
    accelerate launch examples/pretrain.py --objective negclip  # another objective
    accelerate launch examples/pretrain.py --config cc3m_vit_b32 --data DIR   # the paper's setting, on your triplets

Flags are those of transformers' `TrainingArguments`, by their own names, and ours: `--help` lists them. A YAML file
given with `--config` holds the same names; flags win.
"""

from __future__ import annotations

import sys

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.training.run import main

DEFAULT_CONFIG = "scenes"  # of the package; `--print_config` shows it

if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:], DEFAULT_CONFIG)))
