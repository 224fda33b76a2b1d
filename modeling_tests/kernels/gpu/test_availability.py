"""Kernels that do not work are found out once, before anything depends on them; and the switch."""

import warnings

import pytest
import torch

from elmo_hf.kernels.gpu import availability
from elmo_hf.kernels.gpu.availability import has_kernels, kernels_are_right, mode, try_kernels

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right(dtype: torch.dtype, device: str) -> None:
    assert kernels_are_right(torch.device(device), dtype)


def test_no_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: torch.device) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(availability, "kernels_are_right", fail)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(torch.OutOfMemoryError):
        has_kernels(CUDA, torch.float32)
    monkeypatch.setattr(availability, "kernels_are_right", lambda *args: True)
    assert has_kernels(CUDA, torch.float32)


def test_wrong_results_are_seen(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "run_backward", lambda upstream, *args, **settings: upstream)
    with pytest.warns(RuntimeWarning, match="wrong"):
        assert not try_kernels(torch.device(device), torch.float32)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, torch.dtype]]:
    """A GPU on which trying the kernels is only recorded."""
    made: list[tuple[torch.device, torch.dtype]] = []

    def fail(device: torch.device, dtype: torch.dtype) -> bool:
        made.append((device, dtype))
        if dtype == torch.bfloat16:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")
        return True

    monkeypatch.setattr(availability, "kernels_are_right", fail)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


def test_tried_once(trials: list[tuple[torch.device, torch.dtype]]) -> None:
    """With one warning that says why; other dtypes may work."""
    with pytest.warns(RuntimeWarning, match="C compiler") as record:
        assert [has_kernels(CUDA, torch.bfloat16) for _ in range(3)] == [False] * 3
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert has_kernels(CUDA, torch.float32)
    assert trials == [(CUDA, torch.bfloat16), (CUDA, torch.float32)]


def test_not_tried_in_a_capture(
    trials: list[tuple[torch.device, torch.dtype]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not has_kernels(CUDA, torch.float32)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert has_kernels(CUDA, torch.float32)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert has_kernels(CUDA, torch.float32)
    assert len(trials) == 1


@pytest.mark.usefixtures("trials")
class TestSwitch:
    @pytest.mark.parametrize(("value", "on"), [(None, True), ("", True), ("1", True), ("eager", True), ("0", False)])
    def test_values(self, value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if value is None:
            monkeypatch.delenv(availability.SWITCH, raising=False)
        else:
            monkeypatch.setenv(availability.SWITCH, value)
        assert has_kernels(CUDA, torch.float32) == on

    def test_another_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(availability.SWITCH, "off")
        with pytest.raises(ValueError, match=r"ELMO_HF_GPU='off'.*eager"):
            mode()

    def test_no_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(availability, "_triton_is_installed", lambda: False)
        assert not has_kernels(CUDA, torch.float32)

    def test_another_dtype(self) -> None:
        assert not has_kernels(CUDA, torch.float64)

    def test_a_cpu(self) -> None:
        assert not has_kernels(torch.device("cpu"), torch.float32)
