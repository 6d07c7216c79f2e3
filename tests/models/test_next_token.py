import pytest
import torch

from fusegpt.models.structure.next_token import next_logits
from tests import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "mamba", "mixtral", "phi"])
@torch.no_grad()
def test_logits_after_texts_of_different_lengths_are_those_of_each_text_alone(family):
    model = tiny.model(family)
    texts = [tiny.ids(1, length)[0] for length in (3, 7, 5)]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    found = next_logits(model, padded, torch.tensor([3, 7, 5]))
    alone = [model.module(text[None], use_cache=False).logits[0, -1] for text in texts]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_weights():
    model = tiny.model("llama")
    weight = model.parameter("blocks.2.mlp.down_proj.weight").requires_grad_(True)
    next_logits(model, tiny.ids(2, 6), torch.tensor([4, 6])).sum().backward()
    assert weight.grad.abs().sum() > 0
