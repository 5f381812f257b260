"""Own forward passes and decoding, against transformers' own and against one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from conftest import Thirds, random_prompts, tiny_model
from excise.anatomy.writers import examine
from excise.engine.batch_size import (
    LEAST_MEMORY,
    find_batch_size,
    key_value_bytes,
    with_halving,
)
from excise.engine.capture import Accumulators, residuals, writer_statistics
from excise.engine.decode import greedy
from excise.engine.prefill import (
    Prefill,
    common_prefix_length,
    first_token_logits,
    length_groups,
    padding_slack,
    run_prefix,
)
from excise.engine.slots import SlotCache
from excise.errors import OutOfMemoryError, TrialError
from excise.operators.moments import ExactMoments


def generate(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("slots", [1, 3, 8, 50])
def test_greedy_equals_generate_token_for_token(model: PreTrainedModel, slots: int) -> None:
    prompts = random_prompts(21)
    # Several end tokens, so that rows leave at different times and others take their slots.
    model.generation_config.eos_token_id = list(range(0, 96, 6))
    expected = [generate(model, prompt, 25) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 2
    assert greedy(model, prompts, max_new_tokens=25, slots=slots) == expected


def test_greedy_without_a_common_beginning_or_with_one_prompt() -> None:
    model = tiny_model()
    for prompts in (random_prompts(5, shared=0), random_prompts(1), [[9], [9, 12]], [[9], [9]]):
        expected = [generate(model, prompt, 6) for prompt in prompts]
        assert greedy(model, prompts, max_new_tokens=6, slots=2) == expected
    assert greedy(model, [], max_new_tokens=6, slots=2) == []


def test_a_decided_row_leaves_and_the_others_go_on_unchanged(model: PreTrainedModel) -> None:
    prompts = random_prompts(12)
    whole = greedy(model, prompts, max_new_tokens=12, slots=5)
    cut = greedy(model, prompts, max_new_tokens=12, slots=5, stopping_rule=Thirds())
    for answer, full in zip(cut, whole, strict=True):
        assert answer == full[: len(answer)]
        assert len(answer) in (0, len(full)) or answer[-1] % 3 == 0
    assert [row for row, answer in enumerate(cut) if not answer] == [3]
    assert sum(map(len, cut)) < sum(map(len, whole))


def test_first_token_logits_equal_one_prompt_at_a_time(model: PreTrainedModel) -> None:
    prompts = random_prompts(15)
    with torch.inference_mode():
        alone = [model(torch.tensor([p])).logits[0, -1] for p in prompts]
    together = first_token_logits(model, prompts, 4)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_logits_that_are_no_numbers_fail_the_trial() -> None:
    model = tiny_model()
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(TrialError, match="not numbers"):
        first_token_logits(model, random_prompts(3), 4)
    with pytest.raises(TrialError, match="not numbers"):
        greedy(model, random_prompts(3), max_new_tokens=3, slots=2)


def test_common_prefix_leaves_every_prompt_a_token() -> None:
    assert common_prefix_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix_length([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix_length([[1, 2, 3]]) == 2
    assert common_prefix_length([[1], [2]]) == 0


@pytest.mark.parametrize("slack", [0, 2])
def test_groups_hold_like_lengths_longest_first_and_lose_nobody(slack: int) -> None:
    prompts = random_prompts(40)
    groups = length_groups(prompts, range(40), 5, slack)
    assert sorted(row for group in groups for row in group) == list(range(40))
    lengths = [[len(prompts[row]) for row in group] for group in groups]
    assert all(max(group) - min(group) <= slack and len(group) <= 5 for group in lengths)
    assert [group[0] for group in lengths] == sorted((group[0] for group in lengths), reverse=True)
    assert any(len(set(group)) > 1 for group in lengths) == (slack > 0)


def test_padding_only_where_it_changes_nothing() -> None:
    prompts = [[1, 2, *range(10, 10 + rest)] for rest in (8, 3)]
    plain, sliding = tiny_model(), tiny_model("gemma2, post-norms and sliding window")
    assert padding_slack(plain, prompts, run_prefix(plain, [1, 2])) == 2
    assert padding_slack(plain, prompts, run_prefix(plain, [])) == 0
    assert padding_slack(sliding, prompts, run_prefix(sliding, [1, 2])) == 0


def test_a_pass_whose_cache_is_not_wanted_keeps_nothing_and_says_the_same(
    model: PreTrainedModel,
) -> None:
    prompts = random_prompts(6)
    with torch.inference_mode():
        prefill = replace(Prefill.start(model, prompts), slack=0)
        prefix, rows = prefill.prefix, max(prefill.groups(6), key=len)
        kept, passed = (prefill.run(rows, cached=cached) for cached in (True, False))
        assert kept.cache is not None
        assert passed.cache is None
        assert torch.equal(kept.logits, passed.logits)
        cache = prefix.cache_for(len(rows), kept=False)
        suffixes = torch.tensor([prompts[row][prefix.length :] for row in rows])
        model(suffixes, past_key_values=cache)
    assert {layer.get_seq_length() for layer in cache.layers} == {prefix.length}


def test_buffers_of_slots_are_one_piece_of_memory(model: PreTrainedModel) -> None:
    prompts = random_prompts(3)
    cache = SlotCache(model.config.get_text_config().num_hidden_layers, 5, 30)
    with torch.inference_mode():
        prefill = Prefill.start(model, prompts)
        cache.admit(prefill.run([0]).cache, [len(prompts[0])], prefill.prefix.length)
    buffers = [
        buffer for layer in cache.layers for buffer in (layer._key_buffer, layer._value_buffer)
    ]
    (storage,) = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    starts = sorted(buffer.data_ptr() for buffer in buffers)
    sizes = {buffer.data_ptr(): buffer.nbytes for buffer in buffers}
    assert starts[0] == storage
    assert all(start + sizes[start] == after for start, after in pairwise(starts))


def test_residuals_equal_hidden_states(model: PreTrainedModel) -> None:
    prompts, anatomy = random_prompts(9), examine(model)
    found = residuals(model, anatomy.layers, prompts, 4, dimension=32)
    with torch.inference_mode():
        for row, prompt in enumerate(prompts):
            states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
            # transformers' last hidden state is behind the final norm: the others are compared.
            for layer in range(len(anatomy.layers) - 1):
                torch.testing.assert_close(
                    found[row, layer], states[layer + 1][0, -1], atol=1e-4, rtol=1e-4
                )


def test_writer_statistics_equal_plain_means_over_all_tokens(model: PreTrainedModel) -> None:
    prompts, anatomy = random_prompts(9), examine(model)
    names = anatomy.names[1:4]
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs[name].append(output[0].double())
        )
        for name in names
    ]
    with torch.inference_mode():
        for prompt in prompts:
            model(torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    every_token = ExactMoments(len(names), anatomy.dimension)
    last_tokens = ExactMoments(len(names), anatomy.dimension)
    found = writer_statistics(
        model,
        names,
        prompts,
        4,
        dimension=anatomy.dimension,
        accumulators=Accumulators(every_token, last_tokens),
    )
    for index, name in enumerate(names):
        last = torch.stack([tokens[-1] for tokens in outputs[name]])
        every = torch.cat(outputs[name])
        torch.testing.assert_close(found.means[index], last.mean(0), atol=1e-5, rtol=1e-4)
        spread = last.var(0, correction=0).sum()
        torch.testing.assert_close(found.spreads[index], spread, atol=1e-5, rtol=1e-3)
        for moments, tokens in ((every_token, every), (last_tokens, last)):
            assert moments.counts[index] == len(tokens)
            torch.testing.assert_close(
                moments.system(index).matrix(),
                tokens.T @ tokens / len(tokens),
                atol=1e-4,
                rtol=1e-4,
            )


def test_running_out_of_memory_halves_the_batch_and_says_so() -> None:
    tried: list[int] = []

    def work(slots: int) -> str:
        tried.append(slots)
        if slots > 5:
            raise torch.OutOfMemoryError("no")
        return "done"

    told: list[int] = []
    assert with_halving(32, work, told.append) == ("done", 4)
    assert tried == [32, 16, 8, 4]
    assert told == [16, 8, 4]


def test_other_errors_and_too_little_for_one_row_are_not_hidden() -> None:
    def broken(slots: int) -> None:
        raise RuntimeError("shapes do not fit")

    def too_big(slots: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate …")

    with pytest.raises(RuntimeError, match="shapes"):
        with_halving(4, broken, lambda slots: None)
    with pytest.raises(OutOfMemoryError, match=r"single prompt.*allocate memory.*--quantization"):
        with_halving(4, too_big, lambda slots: None)


def test_batch_size_is_found_within_the_prompts_there_are() -> None:
    told: list[int] = []
    assert find_batch_size(tiny_model(), random_prompts(20), 8, 10**6, told.append) == 20
    assert told == []


def test_batch_size_keeps_to_its_share_of_memory() -> None:
    model, prompts = tiny_model(), random_prompts(400)
    slot = key_value_bytes(model, prompts, 8)
    found = find_batch_size(model, prompts, 8, 20 * LEAST_MEMORY, lambda slots: None)
    assert found == min(400, int(2 * LEAST_MEMORY // slot))
    # Two for keys and values, four layers, two heads of eight numbers, four bytes, and an eighth of room.
    tokens = max(map(len, prompts)) + 8
    assert slot == 2 * 4 * 2 * 8 * 4 * tokens * 9 // 8
