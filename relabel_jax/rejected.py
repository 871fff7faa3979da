"""Why a clip is left out."""


class Rejected(Exception):
    """Why a clip is not in the data set.

    Attributes:
      reason: a short slug, the `reason` column of rejects.csv.
      detail: one line for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
