"""Everything between raw text and a batch of packed rows: sources, cleaning, tokenizer, splitting, packing, order."""
