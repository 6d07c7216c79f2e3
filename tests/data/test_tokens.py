import shutil

import pytest

from fusegpt.data.tokens import encode, fingerprint, load_tokenizer
from fusegpt.errors import ArtifactError


@pytest.fixture
def tokenizer(tiny_llama_dir):
    return load_tokenizer(tiny_llama_dir)


def make_it_add(tokenizer, template):
    from tokenizers.processors import TemplateProcessing

    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    processor = TemplateProcessing(single=template, special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = processor


def test_a_tokenizer_without_bos_gets_none(tokenizer):
    ids = encode(tokenizer, "now is better")
    assert tokenizer.decode(ids) == "now is better"


def test_bos_stands_once_at_the_start_and_eos_nowhere(tokenizer):
    make_it_add(tokenizer, "<s> $A </s>")
    with_bos, without = encode(tokenizer, "now"), encode(tokenizer, "now", bos=False)
    assert with_bos.tolist() == [tokenizer.bos_token_id, *without.tolist()]
    assert tokenizer.eos_token_id not in with_bos


def test_a_long_text_is_encoded_without_a_warning(tokenizer, recwarn):
    tokenizer.model_max_length = 4
    assert len(encode(tokenizer, "now is better than never " * 50)) > 4


def test_the_fingerprint_follows_the_tokenizer(tiny_llama_dir, tokenizer):
    before = fingerprint(tokenizer)
    assert fingerprint(load_tokenizer(tiny_llama_dir)) == before
    make_it_add(tokenizer, "<s> $A")
    assert fingerprint(tokenizer) != before


def test_a_directory_without_tokenizer_is_named(tiny_llama_dir, tmp_path):
    shutil.copy(tiny_llama_dir / "config.json", tmp_path)
    with pytest.raises(ArtifactError, match=r"no tokenizer here; expected tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_named_in_one_line(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"the tokenizer does not load \(.+\)$"):
        load_tokenizer(tmp_path / "m")
