# SPDX-License-Identifier: Apache-2.0
"""Compare training methods: equal data, equal steps, several seeds, controls, paired tests."""
