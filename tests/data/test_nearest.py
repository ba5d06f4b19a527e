"""Suggestions for misspelled names."""

from monosem.data.nearest import did_you_mean, nearest


def test_nearest():
    assert nearest("Arabc", ["arabic", "hebrew"]) == ["arabic"]
    assert did_you_mean("base46", ["base64", "dna"]) == " Did you mean 'base64'?"
    assert did_you_mean("zzz", ["base64", "dna"]) == ""
