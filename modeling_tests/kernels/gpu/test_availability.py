"""The trial of kernels, once and before their first use, and the environment variable."""

import warnings
from types import SimpleNamespace as Namespace

import pytest
import torch

from elmo_hf.kernels.gpu import availability
from elmo_hf.kernels.gpu.availability import fuses, has_kernels, kernels_are_right, mode, try_kernels
from elmo_hf.kernels.gpu.workspace import SHARED_MEMORY, can_fuse

CUDA = torch.device("cuda", 0)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "fused"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_kernels_are_right(dtype: torch.dtype, fused: bool, device: str) -> None:
    assert kernels_are_right(torch.device(device), dtype, fused)


def test_out_of_memory_is_not_cached_as_failure(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.warns(RuntimeWarning, match=rf"on {device} in torch\.float32 \(their results are wrong\)"):
        assert not try_kernels(torch.device(device), torch.float32, False)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, torch.dtype]]:
    """A stand-in for a GPU that records trials of kernels."""
    made: list[tuple[torch.device, torch.dtype]] = []
    monkeypatch.setattr(availability, "can_fuse", lambda device, dtype: True)

    def fail(device: torch.device, dtype: torch.dtype, fused: bool) -> bool:
        made.append((device, dtype))
        if dtype == torch.bfloat16 or (fused and dtype == torch.float16):
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")
        return True

    monkeypatch.setattr(availability, "kernels_are_right", fail)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


def test_failed_trial_warns_once(trials: list[tuple[torch.device, torch.dtype]]) -> None:
    """A failed trial gives one warning with the reason; other dtypes may work."""
    with pytest.warns(RuntimeWarning, match=r"torch\.bfloat16 \(RuntimeError: .*ELMO_HF_GPU=0") as record:
        assert [has_kernels(CUDA, torch.bfloat16) for _ in range(3)] == [False] * 3
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert has_kernels(CUDA, torch.float32)
    assert trials == [(CUDA, torch.bfloat16), (CUDA, torch.float32)]


def test_fused_kernel_is_tried_by_itself(trials: list[tuple[torch.device, torch.dtype]]) -> None:
    """After a failed trial, the other kernels stay available."""
    assert has_kernels(CUDA, torch.float16)
    with pytest.warns(RuntimeWarning, match=r"torch\.float16 \(RuntimeError: .*ELMO_HF_GPU=unfused") as record:
        assert [fuses(CUDA, torch.float16) for _ in range(2)] == [False] * 2
    assert (len(record), len(trials)) == (1, 2)
    assert has_kernels(CUDA, torch.float16)


def test_fused_kernel_requires_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of an H100 have 227 KB, of an A100 163, of most others 99. Float32 is never fused."""
    rooms = {"cuda:0": 232448, "cuda:1": 166912, "cuda:2": 101376}
    assert 101376 < SHARED_MEMORY <= 166912
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: Namespace(shared_memory_per_block_optin=rooms[str(device)])
    )
    can_fuse.cache_clear()
    assert [can_fuse(torch.device(name), torch.bfloat16) for name in rooms] == [True, True, False]
    assert not any(can_fuse(torch.device(name), torch.float32) for name in rooms)
    assert not can_fuse(torch.device("cpu"), torch.bfloat16)
    can_fuse.cache_clear()


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
    @pytest.mark.parametrize(
        ("value", "on"),
        [(None, True), ("", True), ("1", True), ("eager", True), ("unfused", True), ("0", False)],
    )
    def test_values(self, value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if value is None:
            monkeypatch.delenv(availability.SWITCH, raising=False)
        else:
            monkeypatch.setenv(availability.SWITCH, value)
        assert has_kernels(CUDA, torch.float32) == on
        assert value == "0" or fuses(CUDA, torch.float32) == (value != "unfused")

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
