"""The verbs: the only place where toolboxes meet."""
