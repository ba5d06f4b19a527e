"""From a language model to a report of every claim of *Towards Monosemanticity*: the only place that both trains and reads."""
