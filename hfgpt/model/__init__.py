"""The model: configuration_gpt.py and modeling_gpt.py over the torch-free architecture.py. torch and transformers
load when a class is first touched, which also registers it with transformers' Auto classes."""

from typing import TYPE_CHECKING, Any

__all__ = ["GPTConfig", "GPTForCausalLM", "GPTModel", "GPTPreTrainedModel"]

if TYPE_CHECKING:
    from hfgpt.model.configuration_gpt import GPTConfig
    from hfgpt.model.modeling_gpt import GPTForCausalLM, GPTModel, GPTPreTrainedModel


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hfgpt.model' has no attribute {name!r}")
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from hfgpt.model import configuration_gpt, modeling_gpt

    AutoConfig.register(configuration_gpt.GPTConfig.model_type, configuration_gpt.GPTConfig, exist_ok=True)
    AutoModel.register(configuration_gpt.GPTConfig, modeling_gpt.GPTModel, exist_ok=True)
    AutoModelForCausalLM.register(configuration_gpt.GPTConfig, modeling_gpt.GPTForCausalLM, exist_ok=True)
    classes = {
        "GPTConfig": configuration_gpt.GPTConfig,
        "GPTForCausalLM": modeling_gpt.GPTForCausalLM,
        "GPTModel": modeling_gpt.GPTModel,
        "GPTPreTrainedModel": modeling_gpt.GPTPreTrainedModel,
    }
    globals().update(classes)
    return classes[name]
