"""The interface of the GPU's recurrence and the encoder that uses it, under Triton's interpreter or on a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.kernels.gpu import availability, graphs, lstm, workspace
from elmo_hf.model import bilstm, operators
from elmo_hf.model.bilstm import ElmoEncoder, ElmoLstm
from elmo_hf.model.operators import bidirectional_lstm
from elmo_hf.model.state import ElmoState
from modeling_tests.kernels.gpu.problems import WIDTH, assert_close
from modeling_tests.tiny import batch_of, tiny_config, with_large_weights
from modeling_tests.waits import waits


def small_config(**settings: Any) -> ElmoConfig:
    return tiny_config(**{"projection_size": WIDTH, "cell_size": 5, **settings})


class TestChoice:
    """Plain weights on a GPU with Triton; emulated on a CPU here."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lstm, "has_kernels", lambda device, dtype: dtype in availability.DTYPES)
        monkeypatch.setattr(lstm, "packed_lstm", lambda *args, **settings: (*args, settings))
        monkeypatch.setattr(availability, "can_fuse", lambda device, dtype: True)
        monkeypatch.setattr(availability, "try_kernels", lambda device, dtype, fused: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    @pytest.fixture
    def layers(self) -> list[Any]:
        return [with_large_weights(ElmoLstm(small_config())) for _ in range(2)]

    def serves(self, layers: list[Any], dtype: torch.dtype = torch.float32) -> bool:
        words, cell = torch.zeros(4, WIDTH, dtype=dtype), torch.zeros(2, 2, 5)
        pair = operators._pair_of_tensors(*layers)
        if pair is None or operators.is_traced():
            return False
        cell = cell.to(torch.promote_types(dtype, torch.float32))
        constants = operators.constants(layers[0])
        results = lstm.bidirectional_lstm((words, words), [2, 2], words, cell, *pair, **constants)
        return not isinstance(results, str)

    def test_plain(self, layers: list[Any]) -> None:
        assert self.serves(layers)
        assert not self.serves(layers, torch.bfloat16)
        assert self.serves([layer.bfloat16() for layer in layers], torch.bfloat16)
        assert not self.serves([layer.double() for layer in layers], torch.float64)

    def test_autocast(self, layers: list[Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert self.serves(layers)
            assert self.serves(layers, torch.bfloat16)

    def test_no_bias(self, layers: list[Any]) -> None:
        layers[1].input_proj.bias = None
        assert not self.serves(layers)

    def test_weights_on_another_device(self, layers: list[Any]) -> None:
        layers[1].hidden_proj.to("meta")
        assert not self.serves(layers)

    def test_used_by_the_bidirectional_layer(self, layers: list[Any]) -> None:
        words = torch.zeros(4, WIDTH)
        asked = bidirectional_lstm((words, words), [2, 2], torch.zeros(2, 2, WIDTH), torch.zeros(2, 2, 5), *layers)
        assert len(asked) == 7 and asked[-1] == {"lengths": None, "graphs": True, "fuses": True}

    @pytest.mark.parametrize(("value", "graphs", "fuses"), [("eager", False, True), ("unfused", True, False)])
    def test_environment_switch(
        self, value: str, graphs: bool, fuses: bool, layers: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ELMO_HF_GPU", value)
        words = torch.zeros(4, WIDTH)
        asked = bidirectional_lstm((words, words), [2, 2], torch.zeros(2, 2, WIDTH), torch.zeros(2, 2, 5), *layers)
        assert asked[-1] == {"lengths": None, "graphs": graphs, "fuses": fuses}


class TestEncoder:
    """The whole stack, on a GPU or emulated on a CPU."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        if device == "cpu":
            monkeypatch.setattr(lstm, "has_kernels", lambda device, dtype: True)
            monkeypatch.setattr(bilstm, "reads_padding", self.reads_padding)
            monkeypatch.setattr(graphs.Captures, "work", lambda captures, device: True)
            monkeypatch.setattr(graphs, "CAPACITIES", (4,))
            monkeypatch.setattr(graphs, "rounded_up", lambda rows: rows)

    def reads_padding(self, words: Tensor, cell: Tensor, layers: Any) -> bool:
        """Skip the check of the device."""
        pairs: list[Any] = [operators._pair_of_tensors(*layer) for layer in layers]
        return lstm.serves_padded(words, cell, pairs)

    def both(self, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
        found = run()
        with monkeypatch.context() as plain:
            plain.setattr(lstm, "has_kernels", lambda device, dtype: False)
            return found, run()

    @pytest.mark.slow
    @pytest.mark.parametrize("context_word_layer", [False, True])
    def test_padding_on_any_side_and_a_state(
        self, context_word_layer: bool, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config(context_word_layer=context_word_layer))).to(device)
        mask = torch.tensor([[0, 1], [1, 1], [0, 0]], device=device).bool()
        words = torch.randn(3, 2, WIDTH, device=device) * mask[:, :, None]
        state = ElmoState(torch.randn(2, 2, 4, WIDTH, device=device), torch.randn(2, 2, 4, 5, device=device))
        with torch.no_grad():
            (layers, carried), (other, other_carried) = self.both(lambda: encoder(words, mask, state), monkeypatch)
        assert_close(layers, other, 2e-6)
        assert_close(carried, other_carried, 2e-6)

    @pytest.mark.slow
    def test_whole_model(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Repeated words are passed to the first layer by an index."""
        model = with_large_weights(ElmoModel(tiny_config())).to(device).eval()
        batch = {name: part.to(device) for name, part in batch_of(["a b", "b"], "left").items()}
        with torch.no_grad():
            found, expected = self.both(lambda: model(**batch, output_hidden_states=True).hidden_states, monkeypatch)
        assert_close(found, expected, 2e-6)

    @pytest.fixture
    def no_launches(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        """Triton's interpreter itself reads values on the host."""
        if device == "cpu":
            for name in ("cell_forward", "output_forward", "cell_backward", "output_backward"):
                monkeypatch.setattr(workspace, name, lambda *args, **settings: None)
            monkeypatch.setattr(workspace.Workspace, "point_to", lambda *args: None)

    @pytest.mark.usefixtures("no_launches")
    def test_inference_has_no_host_sync(self, device: str) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config())).to(device)
        mask = torch.tensor([[0, 1], [1, 1]], device=device).bool()
        words = torch.randn(2, 2, WIDTH, device=device) * mask[:, :, None]
        with torch.no_grad():
            encoder(words, mask)  # one-time preparation may sync
            with waits(device) as found:
                encoder(words, mask)
        assert found == []

    @pytest.mark.usefixtures("no_launches")
    def test_host_syncs_of_a_whole_model(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Host syncs: positions of the words, which of them are distinct, the check of that, and their lengths."""
        monkeypatch.setenv("ELMO_HF_KERNELS", "gpu")  # the CPU kernels read the tensors
        model = with_large_weights(ElmoModel(tiny_config())).to(device).eval()
        batch = {name: part.to(device) for name, part in batch_of(["a b", "b"], "left").items()}
        with torch.no_grad():
            model(**batch)
            with waits(device) as found:
                model(**batch)
        if device == "cpu":
            assert found == ["index", "_unique2", "equal", "tolist"]
        assert len(found) == 4

    @pytest.mark.usefixtures("no_launches")
    def test_training_has_no_host_sync(self, device: str) -> None:
        lstms = [with_large_weights(ElmoLstm(small_config())).to(device) for _ in range(2)]
        words = torch.randn(2, 4, WIDTH, device=device).requires_grad_()
        state = torch.zeros(2, 2, WIDTH, device=device), torch.zeros(2, 2, 5, device=device)

        def step() -> None:
            results = bidirectional_lstm((words[0], words[1]), [2, 2], *state, *lstms)
            torch.autograd.backward([part.sum() for part in results])

        step()
        with waits(device) as found:
            step()
        assert found == []

    @pytest.mark.slow
    def test_training(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config())).to(device)
        mask = torch.tensor([[1, 0], [1, 1]], device=device).bool()
        words = (torch.randn(2, 2, WIDTH, device=device) * mask[:, :, None]).requires_grad_()

        def run() -> tuple[Tensor, ...]:
            layers, state = encoder(words, mask)
            loss = sum((layer**2).sum() for layer in layers) + state.cell.sum()
            return torch.autograd.grad(loss, [words, *encoder.parameters()])

        assert_close(*self.both(run, monkeypatch), 1e-5)

    @pytest.mark.slow
    def test_autocast(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the reference: matmuls and outputs in bfloat16, weights and their gradients in float32."""
        monkeypatch.setenv("ELMO_HF_KERNELS", "gpu")
        lstms = [
            with_large_weights(ElmoLstm(small_config(cell_clip=3.0, projection_clip=3.0))).to(device) for _ in range(2)
        ]
        words = torch.randn(2, 3, WIDTH, device=device).requires_grad_()
        parameters = [weight for lstm in lstms for weight in lstm.parameters()]
        state = torch.zeros(2, 2, WIDTH, device=device), torch.zeros(2, 2, 5, device=device)

        def run() -> tuple[Tensor, ...]:
            with torch.autocast(device, torch.bfloat16):
                results = bidirectional_lstm((words[0], words[1]), [2, 1], *state, *lstms)
            gradients = torch.autograd.grad([part.float().sum() for part in results], [words, *parameters])
            return *results, *gradients

        found, expected = self.both(run, monkeypatch)
        assert [part.dtype for part in found] == [part.dtype for part in expected]
        assert_close(found, expected, 0.03)

    def test_words_by_index(self, device: str) -> None:
        lstms = [with_large_weights(ElmoLstm(small_config())).to(device) for _ in range(2)]
        words = torch.randn(2, WIDTH, device=device)
        index = torch.tensor([1, 0, 1], device=device), torch.tensor([0, 0, 1], device=device)
        state = torch.zeros(2, 2, WIDTH, device=device), torch.zeros(2, 2, 5, device=device)
        with torch.no_grad():
            found = bidirectional_lstm((words, words), [2, 1], *state, *lstms, indices=index)
            expected = bidirectional_lstm((words[index[0]], words[index[1]]), [2, 1], *state, *lstms)
        assert_close(found, expected, 0)
