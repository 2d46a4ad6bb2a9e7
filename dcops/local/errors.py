"""What can go wrong when dcops is started on a machine, each as one sentence that says what to do."""


class LocalError(Exception):
    """The start (or a backup) cannot go on; the message is shown to the operator as it is."""
