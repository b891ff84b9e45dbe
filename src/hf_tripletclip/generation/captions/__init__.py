# SPDX-License-Identifier: Apache-2.0
"""Sources of hard negative captions, one file each."""
