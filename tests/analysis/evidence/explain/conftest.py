"""The ruled model, read once."""

import pytest
from ruled import RULES, ruled_index, ruled_rows, ruled_subject

from monosem.analysis.evidence.explain import gather


@pytest.fixture(scope="session")
def ruled():
    """(subject, rows, index, the case of each rule by name)."""
    subject, rows = ruled_subject(), ruled_rows()
    index = ruled_index(subject, rows)
    cases = gather(subject, index, rows, range(len(RULES)), "neurons")
    return subject, rows, index, dict(zip(RULES, cases, strict=True))
