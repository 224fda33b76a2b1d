"""Carried state over the shards of a corpus: each shard begins with the state that the one before it has left.

That state lies in a file beside the shards until the output is complete, so that an interrupted command continues with
the numbers that it would have written.
"""

from dataclasses import dataclass

from safetensors.torch import load_file, save_file

from elmo_hf.atomic import appearing
from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.model.state import ElmoState

from .output import Output
from .plan import Plan, Shard


@dataclass
class ShardStates:
    """The state of each row of sentences, from shard to shard.

    Attributes:
        carried: that of now.
        place, plan: where the shards lie.
    """

    carried: CarriedState
    place: Output
    plan: Plan

    def begin(self, shard: Shard) -> None:
        """Continue where the shard before has ended.

        Raises:
            ValueError: its state is missing or damaged.
        """
        path = self.place.state_path(shard.number - 1, self.plan)
        try:
            self.carried.state = ElmoState(**load_file(path))
        except Exception as error:  # whatever a damaged file makes the library raise
            raise ValueError(
                f"{path} is missing or damaged ({error}), and shard {shard.number} begins with the state that it held. "
                "Start anew with overwrite"
            ) from error

    def end(self, shard: Shard) -> None:
        """Keep the state behind a shard. Before the shard itself appears: what is there can be continued."""
        state = self.carried.state
        assert state is not None
        path = self.place.state_path(shard.number, self.plan)
        with appearing(path) as aside:
            save_file({name: part.cpu().contiguous() for name, part in state._asdict().items()}, aside)
