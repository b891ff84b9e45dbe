# SPDX-License-Identifier: Apache-2.0
"""Readers of the layouts that benchmarks come in."""
