"""Monitor deployed models: their data, their performance, and notifications about them."""
