"""How fast a step is, what it costs in memory, and how far it is from what the machine could do at best."""
