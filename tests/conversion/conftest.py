"""Tiny models of the architectures that transformers ships, all parameters random, with a tokenizer of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = "The quick brown fox jumps over the lazy dog, and 1234 others don't; naïve café, 世界.\n" * 20


@pytest.fixture(scope="session")
def plain_tokenizer():
    """As GPT-2's: byte-level BPE whose only special token is `<|endoftext|>`, 300 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]
    )
    backend.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=64
    )


@pytest.fixture(scope="session")
def randomized() -> Callable[[Any], Any]:
    """The same model with every parameter moved: fresh, biases are zero, gains one, and some matrices zero."""
    import torch

    def randomize(model: Any) -> Any:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                std = 0.5 if "embed" in name or "wte" in name else 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
        return model.eval()

    return randomize


@pytest.fixture
def native_folder(tmp_path, plain_tokenizer, randomized) -> Callable[..., Path]:
    """`native_folder(config)`: a folder as transformers saves that architecture's model, with a tokenizer."""
    from transformers import AutoModelForCausalLM

    def save(config: Any, dtype: str = "float32") -> Path:
        import torch

        torch.manual_seed(0)
        model = randomized(AutoModelForCausalLM.from_config(config)).to(getattr(torch, dtype))
        model.save_pretrained(tmp_path / "native")
        plain_tokenizer.save_pretrained(tmp_path / "native")
        return tmp_path / "native"

    return save
