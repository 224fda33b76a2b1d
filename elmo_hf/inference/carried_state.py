"""Carried state: every sentence starts from the final state of the previous sentence in its row.

Both original programs always carry state: bilm-tf's `dump_bilm_embeddings` from sentence to sentence, AllenNLP's
`ElmoEmbedder` in batches of 64, where row r of a batch continues row r of the previous batch.
"""

from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.state import ElmoState


class CarriedState:
    """State of each row of sentences, kept between batches.

    Args:
        rows: number of sentences per batch.
        state: initial state of all rows; `None` for zeros.
    """

    def __init__(self, rows: int = 1, state: ElmoState | None = None) -> None:
        self.rows, self.state = rows, state

    @classmethod
    def on_request(cls, config: ElmoConfig, carry_state: bool, rows: int, warm_up: int) -> "CarriedState | None":
        """The carried state that the options of `embed` request; `None` if sentences are read independently.

        Raises:
            ValueError: an impossible option, or a model without state.
        """
        for name, value, least in (("rows", rows, 1), ("warm_up", warm_up, 0)):
            if value < least:
                raise ValueError(f"{name}={value}: expected at least {least}")
        if not carry_state:
            if rows != 1 or warm_up:
                given = f"rows={rows}" if rows != 1 else f"warm_up={warm_up}"
                raise ValueError(f"{given} without carry_state: sentences read by themselves have no state to keep")
            return None
        if config.encoder_type != "lstm":
            raise ValueError(
                f"carry_state with encoder_type={config.encoder_type!r}: a Transformer has no state; leave it out"
            )
        return cls(rows)

    def of(self, first: int, count: int) -> ElmoState | None:
        """State of `count` rows from `first` on; `None` for zeros."""
        return None if self.state is None else ElmoState(*(part[:, :, first : first + count] for part in self.state))

    def keep(self, first: int, state: ElmoState) -> None:
        """Replace the state of the rows from `first` on."""
        if self.state is None:
            self.state = ElmoState(*(part.new_zeros(*part.shape[:2], self.rows, part.shape[3]) for part in state))
        for old, new in zip(self.state, state, strict=True):
            old[:, :, first : first + new.shape[2]] = new
