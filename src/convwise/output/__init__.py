"""The folder that is handed over: models, code, choice.json and the report; predictions from it."""

__all__ = [
    "answers",
    "bars",
    "choice",
    "deliver",
    "plots",
    "predicting",
    "tables",
    "whole",
    "words",
    "writer",
]
