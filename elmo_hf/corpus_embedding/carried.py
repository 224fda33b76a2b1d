"""Carried state over the shards of a corpus: each shard begins with the final state of the previous one.

The state is kept in a file next to the shards until the output is complete. An interrupted command continues from it
with the same numbers.
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
        carried: the current state.
        place, plan: output and plan of the shards.
    """

    carried: CarriedState
    place: Output
    plan: Plan

    def begin(self, shard: Shard) -> None:
        """Load the final state of the previous shard.

        Raises:
            ValueError: the state is missing or damaged.
        """
        path = self.place.state_path(shard.number - 1, self.plan)
        try:
            self.carried.state = ElmoState(**load_file(path))
        except Exception as error:  # whatever a damaged file makes the library raise
            raise ValueError(
                f"{path} is missing or damaged ({error}), and shard {shard.number} begins with the state that it held. "
                "Start over with overwrite"
            ) from error

    def end(self, shard: Shard) -> None:
        """Save the state after a shard, before the shard itself appears: a complete shard always has its state."""
        state = self.carried.state
        assert state is not None
        path = self.place.state_path(shard.number, self.plan)
        with appearing(path) as aside:
            save_file({name: part.cpu().contiguous() for name, part in state._asdict().items()}, aside)
