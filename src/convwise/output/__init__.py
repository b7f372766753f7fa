"""The folder that is handed over: models, code, choice.json and the report; predictions from it."""

__all__ = ["choice", "deliver", "plots", "whole", "words", "writer"]
