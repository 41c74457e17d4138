"""Our models in lmms-eval: `lmms-eval --model vamba --model_args pretrained=MODEL --tasks …`, by its entry point."""
