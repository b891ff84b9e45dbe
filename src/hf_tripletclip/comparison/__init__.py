# SPDX-License-Identifier: Apache-2.0
"""Methods side by side: equal data, equal steps, several seeds, controls, paired tests."""
