"""transformers' pipeline over a folder and conversations."""

from pathlib import Path

import torch
from transformers import pipeline

SETTINGS = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def test_it_answers_conversations_one_by_one_and_in_a_batch(
    model_folder: Path, model, tokenizer, conversations
) -> None:
    answer = pipeline("text-generation", model=str(model_folder), trust_remote_code=True, dtype=torch.float32)
    questions = [messages[:1] for messages in conversations]
    expected = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(**prompt, **SETTINGS)[0, prompt["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(tokens, skip_special_tokens=True))
    assert len(set(expected)) > 1
    for batch_size in (1, 4):
        (*said,) = (result[0]["generated_text"] for result in answer(questions, batch_size=batch_size, **SETTINGS))
        assert [messages[:-1] for messages in said] == questions
        assert [messages[-1] for messages in said] == [{"role": "assistant", "content": text} for text in expected]
