"""From a language model to a report of every claim of the paper: the only place that both trains and reads."""
