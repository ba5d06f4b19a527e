"""Several processes, on ``torch.distributed``: what training on a mesh, harvest, index and evaluation share.

``wire.py`` is the only place that sends anything, ``lost.py`` names a process that has ended, ``peers.py`` is what code
asks that is written for one process and for several, and ``ranks.py`` answers for several.
"""
