"""Training of the networks that ship with the package.

``loop`` runs any task and resumes it; ``prior``, ``purifier``, ``recogniser``, ``ddsa`` and ``faceguard`` are
its tasks, from a folder of photographs to weights with a card.
"""
