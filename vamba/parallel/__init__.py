"""How the model is spread over ranks."""
