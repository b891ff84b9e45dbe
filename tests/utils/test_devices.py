# SPDX-License-Identifier: Apache-2.0
"""Devices, precisions, and loading without progress bars."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from hf_tripletclip.utils.devices import check_dtype, loading, no_progress_bars, pick_device, pick_dtype


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
    ],
)
def test_precisions(name, device, expected):
    check_dtype(name)
    assert pick_dtype(name, torch.device(device)) is expected


def test_devices_that_this_machine_or_torch_does_not_have():
    with pytest.raises(ValueError, match="`dtype` is 'float8'; give auto, float32, float16, bfloat16"):
        check_dtype("float8")
    for name in ("tpu", "cpu:x"):
        with pytest.raises(ValueError, match=f"`device` is '{name}', which this machine does not have: ") as error:
            pick_device(name)
        assert "\n" not in str(error.value)


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert pick_device() == torch.device("cuda")


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_are_restored(shown):
    before = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    try:
        with no_progress_bars():
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() is shown
    finally:
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()


@pytest.mark.parametrize(
    "error", [SafetensorError("cut\nshort"), KeyError("cut"), pickle.UnpicklingError("cut"), RuntimeError("cut")]
)
def test_damaged_files_are_named(error):
    message = "w cannot be loaded as a painter, its files are damaged: "
    with pytest.raises(OSError, match=message) as told, loading("w", "a painter"):
        raise error
    assert "cut" in str(told.value)
    assert "short" not in str(told.value)


def test_other_errors_of_loading():
    with pytest.raises(OSError, match=r"^w cannot be loaded as a painter: gone$"), loading("w", "a painter"):
        raise OSError("gone")
    with pytest.raises(torch.OutOfMemoryError), loading("w", "a painter"):
        raise torch.OutOfMemoryError("full")
