"""How fast a recipe trains and decodes on this machine, against others; needs torch, transformers and accelerate."""
