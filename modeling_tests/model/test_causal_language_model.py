"""One direction as a causal language model: probabilities, cache, generation."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TextStreamer
from transformers.cache_utils import DynamicCache

from elmo_hf import ElmoCache, ElmoForCausalLM, ElmoForPreTraining, ElmoModel, ElmoState, ElmoTokenizer
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "dog", "sat", "on", "mat", "."]
TOKENIZER = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, pos_tag_set=["NOUN", "VERB"])
SENTENCES = ["the cat sat on the mat .", "the dog", "a zebra sat on the cat"]
KINDS = {
    "characters": {},
    "words": WORD_INPUT,
    "both": BOTH_INPUTS,
    "context word layer": {"context_word_layer": True},
    "tags": {"num_pos_tags": 2, "pos_tag_embedding_size": 3},
    "adaptive softmax": {"softmax_cutoffs": [4]},
    "Transformer": TRANSFORMER,
    "Transformer of words": {**TRANSFORMER, **WORD_INPUT},
}


def model_of(kind: str, **overrides) -> ElmoForCausalLM:
    ids = {"vocab_size": len(TOKENIZER), "mask_token_id": TOKENIZER.mask_token_id}
    model = ElmoForCausalLM(tiny_config(**ids, **KINDS[kind], **overrides))
    with_large_weights(model).eval().set_tokenizer(TOKENIZER)
    return model


def batch_of(sentences=SENTENCES, side="right"):
    words = [sentence.split() for sentence in sentences]
    tags = [["NOUN", "VERB", None][: len(each)] + [None] * (len(each) - 3) for each in words]
    return TOKENIZER(
        words, is_split_into_words=True, pos_tags=tags, padding=True, padding_side=side, return_tensors="pt"
    )


def reversed_within(batch):
    """Each sentence in reverse order, with padding at the end."""
    turned = {}
    for name, value in batch.items():
        rows = value.clone()
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            rows[row, :length] = value[row, :length].flip(0)
        turned[name] = rows
    return turned


def log_probs(logits, ids, mask):
    """Log-probabilities (batch, words) of every word but the first, given the previous ones; zero elsewhere."""
    scores = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    return torch.cat([torch.zeros(len(ids), 1), scores * mask[:, 1:]], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_are_those_of_the_bidirectional_model(kind):
    batch = batch_of()
    for direction, given in (("forward", batch), ("backward", reversed_within(batch))):
        model = model_of(kind, direction=direction)
        whole = ElmoForPreTraining(model.config).eval()
        whole.load_state_dict(model.state_dict())
        with torch.no_grad():
            expected = whole(**batch, labels=batch["input_ids"], output_hidden_states=True)
            labels = given["input_ids"].masked_fill(given["attention_mask"].eq(0), -100)
            found = model(**given, labels=labels, output_hidden_states=True)
        scores = log_probs(found.logits, given["input_ids"], given["attention_mask"])
        known = getattr(expected, f"{direction}_log_probs")
        if direction == "backward":
            known = reversed_within({"value": known, "attention_mask": batch["attention_mask"]})["value"]
        torch.testing.assert_close(scores, known, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.loss, getattr(expected, f"{direction}_loss"), rtol=1e-5, atol=1e-5)
        assert found.logits[..., [0, TOKENIZER.mask_token_id]].eq(-1e4).all()
        half = 0 if direction == "forward" else 1
        for layer, both in zip(found.hidden_states, expected.hidden_states, strict=True):
            half_of = both.chunk(2, dim=-1)[half]
            if direction == "backward":
                half_of = reversed_within({"value": half_of, "attention_mask": batch["attention_mask"]})["value"]
            torch.testing.assert_close(layer, half_of, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_pieces_equal_the_whole(kind):
    """With the cache, in pieces of any length, and with padding on the left."""
    model, batch = model_of(kind), batch_of(side="left")
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        whole = model(**batch).logits
        cache, pieces = None, []
        for first, last in ((0, 2), (2, 3), (3, 4), (4, real.shape[1])):
            piece = {name: value[:, first:last] for name, value in batch.items() if name != "attention_mask"}
            mask = batch["attention_mask"][:, :last]
            output = model(**piece, attention_mask=mask, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits)
            assert cache.get_seq_length() == last
    torch.testing.assert_close(torch.cat(pieces, 1)[real], whole[real], rtol=1e-5, atol=1e-5)
    assert isinstance(cache, DynamicCache if "Transformer" in kind else ElmoCache)
    assert model(**batch).past_key_values is None


@pytest.mark.samples(4)
@pytest.mark.parametrize("kind", ["characters", "words", "tags", "Transformer"])
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 5},
    ],
    ids=["greedy", "beams", "sampling"],
)
def test_generate_reads_each_word_once(kind, options):
    model = model_of(kind)
    batch = batch_of(side="left")
    prompt = {name: value[:, :-1] for name, value in batch.items()}  # without </S>
    read = []
    hook = model.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    torch.manual_seed(1)
    found = model.generate(**prompt, max_new_tokens=5, **options)
    hook.remove()
    steps = len(read)
    assert read == [prompt["input_ids"].shape[1], *[1] * (steps - 1)] and steps > 1
    torch.manual_seed(1)
    assert torch.equal(found, model.generate(**prompt, max_new_tokens=5, use_cache=False, **options))
    assert torch.equal(found[:: options.get("num_return_sequences", 1), : read[0]], prompt["input_ids"])
    assert not found[:, read[0] :].eq(TOKENIZER.mask_token_id).any()


def test_characters_of_the_prompt_are_read_as_given():
    model, batch = model_of("characters"), batch_of(["a zebra sat"])
    prompt = {name: batch[name][:, :-1] for name in ("input_ids", "attention_mask", "character_ids")}
    other = {**prompt, "character_ids": model.spell(prompt["input_ids"])}
    assert not torch.equal(other["character_ids"], prompt["character_ids"])
    for given, inputs in ((prompt, prompt), (other, {"input_ids": prompt["input_ids"]})):
        scores = model.generate(**inputs, max_new_tokens=2, output_logits=True, return_dict_in_generate=True).logits
        torch.testing.assert_close(scores[0], model(**given).logits[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["characters", "words", "Transformer"])
def test_generates_from_inputs_embeds(kind):
    """A prompt of `inputs_embeds`, as of prompt tuning; with the ids beside them, these are in the result."""
    model, batch = model_of(kind), batch_of(["the cat", "a zebra"])
    prompt = {name: value[:, :-1] for name, value in batch.items()}
    ids, mask = prompt["input_ids"], prompt["attention_mask"]
    inputs = [prompt.get(name) for name in model.elmo.embeddings.input_names]
    vectors = model.elmo.embeddings(*inputs, mask=mask.bool())
    expected = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    given = {"inputs_embeds": vectors, "attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**given), expected[:, ids.shape[1] :])
    assert torch.equal(model.generate(ids, **given), expected)


def test_state_as_past_key_values():
    """A state of `ElmoModel` with `return_state=True` is accepted as a cache."""
    model, batch = model_of("characters"), batch_of()
    state = model.elmo(**batch, return_state=True).state
    output = model(**batch, past_key_values=state)
    assert isinstance(output.past_key_values, ElmoCache) and isinstance(output.past_key_values.state, ElmoState)
    again = model.elmo(**batch, initial_state=state, output_hidden_states=True, return_state=True)
    logits = model.softmax.logits(again.hidden_states[-1].chunk(2, -1)[0])
    torch.testing.assert_close(output.logits[..., 1:5], logits[..., 1:5], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.past_key_values.state.cell[:, 0], again.state.cell[:, 0], rtol=1e-5, atol=1e-5)
    assert torch.equal(output.past_key_values.state.cell[:, 1], state.cell[:, 1])
    with pytest.raises(TypeError, match="DynamicCache.*ElmoCache"):
        model(**batch, past_key_values=DynamicCache())


def test_text_streamer(capsys):
    model, batch = model_of("words"), batch_of(["the cat"])
    prompt = {name: value[:, :-1] for name, value in batch.items()}
    model.generate(**prompt, max_new_tokens=3, do_sample=False, streamer=TextStreamer(TOKENIZER, skip_prompt=True))
    assert capsys.readouterr().out.strip()


def test_trains_one_direction_only():
    for kind in ("characters", "Transformer", "context word layer"):
        model, batch = model_of(kind).train(), batch_of()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        for name, weight in model.named_parameters():
            trains = ".backward_" not in name and "scalar_mixes" not in name
            assert (weight.grad is not None) == weight.requires_grad == trains, name
        plain = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        model.gradient_checkpointing_enable()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        for name, grad in plain.items():
            torch.testing.assert_close(model.get_parameter(name).grad, grad, rtol=1e-5, atol=1e-6)


def test_loads_from_a_pretraining_checkpoint(tmp_path):
    """The folder's tokenizer gives the words' characters."""
    model = model_of("characters")
    pretrained = ElmoForPreTraining(model.config)
    pretrained.load_state_dict(model.state_dict())
    pretrained.save_pretrained(tmp_path)
    batch = batch_of()
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    alone = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(alone) is ElmoForCausalLM
    with pytest.raises(ValueError, match=f"{tmp_path} has no tokenizer.*set_tokenizer"):
        alone(**ids)
    TOKENIZER.save_pretrained(tmp_path)
    for direction in ("forward", "backward"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, direction=direction)
        assert loaded.config.direction == direction
        spelled = {**ids, "character_ids": model.spell(ids["input_ids"])}
        assert torch.equal(loaded(**ids).logits, loaded(**spelled).logits)
        frozen = [name for name, weight in loaded.named_parameters() if not weight.requires_grad]
        assert any("forward_lstm" in name for name in frozen) == (direction == "backward")


def test_refusals():
    model, batch = model_of("characters"), batch_of()
    labels = batch["input_ids"].clone()
    labels[0, 1] = 0
    with pytest.raises(ValueError, match="label 0: expected a word"):
        model(**batch, labels=labels)
    with pytest.raises(ValueError, match="word id 99"):
        model(input_ids=torch.tensor([[1, 99]]))
    with pytest.raises(ValueError, match="vocab_size=4"):
        ElmoForCausalLM(tiny_config(vocab_size=4)).set_tokenizer(ElmoTokenizer(max_characters_per_word=9))
    with pytest.raises(ValueError, match=r"crop\(-1\)"):
        ElmoCache().crop(-1)
    with pytest.raises(ValueError, match="cache_implementation"):
        model.generate(**batch, max_new_tokens=1, cache_implementation="static")
    with pytest.raises(ValueError, match="input_ids.*inputs_embeds"):
        model()
    backward = model_of("Transformer", direction="backward")
    with pytest.raises(ValueError, match='generate with direction="backward"'):
        backward.generate(**batch, max_new_tokens=1)
    with pytest.raises(ValueError, match='use_cache=True with direction="backward"'):
        backward(**batch, use_cache=True)
    with pytest.raises(ValueError, match="characters: pass the character_ids"):
        ElmoForCausalLM(tiny_config())(input_ids=batch["input_ids"])


@pytest.mark.slow
def test_the_state_is_that_of_the_bidirectional_model():
    model, batch = model_of("characters"), batch_of()
    expected = ElmoModel(model.config).eval()
    expected.load_state_dict(model.elmo.state_dict())
    state = expected(**batch, return_state=True).state
    found = model(**batch, use_cache=True).past_key_values.state
    torch.testing.assert_close(found.hidden[:, 0], state.hidden[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.cell[:, 0], state.cell[:, 0], rtol=1e-5, atol=1e-6)
    assert not found.cell[:, 1].any()
