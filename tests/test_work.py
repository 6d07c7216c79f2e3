"""The rule of FLOPs against PyTorch's own counter, family by family."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusegpt.evaluation.inference import prefill_flops
from fusegpt.models.flops import forward_flops, head_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.work import attention_width, forward_rule
from tests import tiny

SEQ = 16
EXPERTS = {"mixtral", "qwen3_moe", "phimoe", "olmoe", "granitemoe", "gpt_oss", "glm4_moe", "dots1"}
EXPERTS |= {"deepseek_v2", "deepseek_v3", "lfm2_moe"}
RECURRENT = {"qwen3_next", "qwen3_5", "bamba", "granitemoehybrid", "mamba", "falcon_mamba", "lfm2"}


def eager(family: str, **changes) -> Model:
    """Attention in plain products: the counter knows nothing of the fused kernel for CPUs."""
    model = tiny.model(family, **changes)
    if family not in ("falcon", "falcon_alibi"):
        model.module.set_attn_implementation("eager")
    return model


def counted(model: Model, *, train: bool = False) -> dict[str, int]:
    """FLOPs by the place in the module, of two windows."""
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(train):
        logits = model.module(input_ids=tiny.ids(2, SEQ), use_cache=False).logits
        if train:
            logits.sum().backward()
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def of_blocks(model: Model, counts: dict[str, int]) -> int:
    place = next(name for name, part in model.module.named_modules() if part is model.block_list)
    ends = tuple(f"{place}.{number}" for number in range(model.num_blocks))
    return sum(count for name, count in counts.items() if name.endswith(ends))


def by_rule(model: Model) -> float:
    """The rule, with the upper half of attention back: plain products work on it, masked."""
    width = attention_width(model.text_config) * len(model.units("attention"))
    return forward_flops(model, model.kept, 2 * SEQ, SEQ) + forward_rule(0, width, 2 * SEQ, SEQ)


@pytest.mark.parametrize("family", tiny.each(sorted(set(tiny.TEXT) - EXPERTS - RECURRENT)))
def test_a_forward_pass_costs_what_torch_counts(family):
    model = eager(family)
    assert by_rule(model) == of_blocks(model, counted(model))


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "glm", "deepseek_v3"])
def test_heads_may_be_wider_or_narrower_than_their_share_of_the_hidden_states(family):
    sizes = [{"head_dim": 16}, {"head_dim": 4}]
    if family == "deepseek_v3":  # experts in no block, so that the counts are the same
        dense = {"first_k_dense_replace": tiny.BLOCKS}
        sizes = [{**dense, "v_head_dim": 16}, {**dense, "qk_nope_head_dim": 12}]
    for size in sizes:
        model = eager(family, **size)
        assert attention_width(model.text_config) != tiny.HIDDEN
        assert attention_width(model.text_config.to_dict()) == attention_width(model.text_config)
        assert by_rule(model) == of_blocks(model, counted(model))


@pytest.mark.parametrize(
    "family", sorted(EXPERTS - {"gpt_oss"})
)  # the counter knows not its product
def test_all_experts_count_though_a_token_visits_few(family):
    model = eager(family)
    assert by_rule(model) >= of_blocks(model, counted(model))


def test_training_costs_three_forward_passes_and_recomputed_attention():
    model = eager("qwen3", head_dim=16)
    model.block_list.requires_grad_(True)
    counts = of_blocks(model, counted(model, train=True))
    attention = forward_rule(0, 64 * tiny.BLOCKS, 2 * SEQ, SEQ)  # one forward pass of it, causal
    rule = training_flops(model, model.kept, 2 * SEQ, SEQ)
    assert counts == rule - 3.5 * attention + 2 * 3 * attention


def test_logits_cost_two_for_each_value_of_the_head():
    model = eager("llama")
    counts = counted(model)
    assert counts["LlamaForCausalLM.lm_head"] == head_flops(model, 2 * SEQ)


def test_the_prefill_of_an_evaluation_follows_the_same_rule():
    model = eager("qwen3", head_dim=16)
    blocks = forward_flops(model, model.kept, SEQ, SEQ)
    assert prefill_flops(model, SEQ) == blocks + head_flops(model, 1)
