"""What a study's database calls what it keeps; who only follows a study reads the same names, and
loads no library.
"""

from __future__ import annotations

RESULT = "convwise:result"  # Optuna's attribute of a trial that holds a Result as JSON
# Notes: what was asked, the time spent, how often the sealed part was opened, and for which trial
# last.
SETTINGS, SPENT = "convwise:settings", "convwise:spent_seconds"
OPENED, OPENED_FOR = "convwise:test_opened", "convwise:test_opened_for"
FACTS, ADVICE = "convwise:facts", "convwise:advice"
# What was decided about the mirror image, for which trial, and what was asked
VIEWS = "convwise:views"
