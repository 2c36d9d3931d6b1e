"""transformers' own model tests, ModelTesterMixin, as the outside judge of our model class, in both families.

They are not in the wheel, so the source distribution of the installed version is fetched once into .cache/. What is
skipped there says why; what is overridden here says why."""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
from pathlib import Path

import pytest
import torch
import transformers
from filelock import FileLock
from transformers.trainer_utils import set_seed

from hfgpt import GPTConfig, GPTForCausalLM, GPTModel

CACHE = Path(__file__).resolve().parents[2] / ".cache" / f"transformers-{transformers.__version__}"
PACKAGE = "transformers_source_tests"


def fetch_transformers_tests() -> Path:
    """The folder tests/ of the installed transformers' source distribution, by pip, kept in .cache/."""
    CACHE.parent.mkdir(exist_ok=True)
    with FileLock(CACHE.with_suffix(".lock")):  # of another worker
        if not (CACHE / "tests").is_dir():
            _download_transformers_tests()
    return CACHE / "tests"


def _download_transformers_tests() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", f"transformers=={transformers.__version__}"]
        command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", scratch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            why = f"transformers' source distribution is not in .cache/ and could not be had: {done.stderr[-300:]}"
            if os.environ.get("CI") == "true":
                raise RuntimeError(why)
            pytest.skip(why, allow_module_level=True)
        archive = next(Path(scratch).glob("transformers-*.tar.gz"))
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar if member.name.split("/")[1:2] == ["tests"]]
            tar.extractall(scratch, members=wanted, filter="data")
        shutil.move(archive.with_name(archive.name.removesuffix(".tar.gz")), CACHE)


# What the tests import from parts of the repository that the source distribution leaves out.
LEFT_OUT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
}


def import_common_tests(folder: Path) -> types.ModuleType:
    """transformers' module test_modeling_common."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for name, content in LEFT_OUT.items():
        parent = types.ModuleType(f"{PACKAGE}.{name.split('.')[0]}")
        parent.__path__ = []
        module = types.ModuleType(f"{PACKAGE}.{name}")
        vars(module).update(content)
        sys.modules[parent.__name__] = parent
        sys.modules[module.__name__] = module
    common = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    # The tests choose inputs by looking the class up in transformers' tables: there, and only there, we enter ours.
    common.MODEL_MAPPING_NAMES = common.MODEL_MAPPING_NAMES | {"hfgpt": "GPTModel"}
    common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | {"hfgpt": "GPTForCausalLM"}
    return common


common = import_common_tests(fetch_transformers_tests())


class FamilyTester:
    """What the mixin asks of a model: a small configuration and a batch."""

    batch_size = 3
    seq_length = 16
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, depth_series: bool) -> None:
        self.depth_series = depth_series

    def get_config(self) -> GPTConfig:
        shape = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        }
        if self.depth_series:
            switches = {"num_key_value_heads": 2, "sliding_window": 5, "smear": True, "backout": True}
            return GPTConfig.from_depth(2, **switches, **shape)
        return GPTConfig.gpt2("gpt2", **shape)

    def prepare_config_and_inputs_for_common(self) -> tuple[GPTConfig, dict[str, torch.Tensor]]:
        input_ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class FamilyTests(common.ModelTesterMixin):
    """What both families share."""

    all_model_classes = (GPTModel, GPTForCausalLM)
    # The suite tells a model's age by a copyright line, which ours has not, and spares the old ones this test.
    test_can_init_all_missing_weights_before_2023 = True
    depth_series = False

    def setUp(self) -> None:
        set_seed(42)
        self.model_tester = FamilyTester(self.depth_series)

    def test_generation_tester_mixin_inheritance(self) -> None:
        self.skipTest("GenerationTesterMixin is not in the source distribution; test_generation.py is ours")


class GPTModelTest(FamilyTests, unittest.TestCase):
    """The GPT-2 family."""


class GPTModelTestDepthSeries(FamilyTests, unittest.TestCase):
    """The depth series."""

    depth_series = True

    def test_inputs_embeds(self) -> None:
        """Overridden: value embeddings look tokens up in the layers, so embeddings alone are refused by name."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config).eval()
            embeds = model.get_input_embeddings()(inputs["input_ids"])
            with self.assertRaisesRegex(ValueError, "inputs_embeds.*value_embeddings"):
                model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])

    def test_inputs_embeds_matches_input_ids(self) -> None:
        """Overridden: input_ids must come along, and then the embeddings given are the ones used."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = GPTModel(config).eval()
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        with torch.no_grad():
            expected = model(**inputs)[0]
            torch.testing.assert_close(model(**inputs, inputs_embeds=embeds)[0], expected)
            self.assertGreater((model(**inputs, inputs_embeds=embeds.flip(1))[0] - expected).abs().max().item(), 0.1)
