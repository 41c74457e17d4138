"""How each protocol asks: frames, prompt, tokens, and how a letter is read out of what a model wrote."""
