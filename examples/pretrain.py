# SPDX-License-Identifier: Apache-2.0
"""Pretrain a CLIP on hard negative pairs.

    accelerate launch examples/pretrain.py                      # TripletCLIP on the embedded data, minutes on a CPU
    accelerate launch examples/pretrain.py --objective negclip  # another objective
    accelerate launch examples/pretrain.py --config examples/configs/cc3m_vit_b32.yaml \
        --dataset_name_or_path DIR                              # the paper's setting, on your triplets

Flags are those of transformers' `TrainingArguments`, by their own names, and ours: `--help` lists them. A YAML file
given with `--config` holds the same names; flags win.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.training.run import main

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "scenes_cpu.yaml"

if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:], DEFAULT_CONFIG)))
