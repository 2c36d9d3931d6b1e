"""hfgpt: train your own ChatGPT from raw text, where every piece is a HuggingFace piece.

Importing the package costs nothing: torch and transformers are loaded when a name below is first used, and
loading any of the three model classes registers them with transformers' Auto classes.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["GPTConfig", "GPTForCausalLM", "GPTModel", "UserError", "__version__"]

if TYPE_CHECKING:
    from hfgpt.errors import UserError
    from hfgpt.model import GPTConfig, GPTForCausalLM, GPTModel


def __getattr__(name: str) -> Any:
    if name == "UserError":
        from hfgpt.errors import UserError

        return UserError
    if name in {"GPTConfig", "GPTModel", "GPTForCausalLM"}:
        import hfgpt.model

        return getattr(hfgpt.model, name)
    raise AttributeError(f"module 'hfgpt' has no attribute {name!r}")
