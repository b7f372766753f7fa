"""The nouns: standard library only, frozen, exact, JSON in and out."""
