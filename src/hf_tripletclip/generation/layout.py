# SPDX-License-Identifier: Apache-2.0
"""What a dataset's folder holds, by name."""

DATA_FOLDER = "data"
ASSETS_FOLDER = "assets"  # the pictures of the card
REPORT_FILE = "report.json"  # written last: a folder that has it is finished
LEFT_OUT_FILE = "left_out.jsonl"
NEIGHBOURS_FOLDER = "neighbours"  # of `tripletclip mine`: the nearest rows of each row, a file for each split
MINING_PAGE = "mining.html"  # of `tripletclip mine`: what was found
PLAN_FILE = "plan.json"  # in the work folder, of the dataset in the making

WORK_FOLDER = ".generation"  # all but its lock is gone once the dataset is written
LOCK_FILE = "lock"  # in the work folder, where it stays
LOGS_FOLDER = "logs"  # in the work folder: of the tasks
