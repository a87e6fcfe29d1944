"""How many tokens go through the model at once: less after running out of memory, more again when it goes well."""

GROW_AFTER = 16  # batches that went well


class TokenBudget:
    """A token budget that halves and grows back, up to the configured one; shared by the threads of a process.

    Races between threads cost a batch of another size, never a vector: these do not depend on batches.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._well = 0
        self.tokens = most

    def shrink(self, failed: int) -> None:
        """A batch of `failed` tokens did not fit."""
        self.tokens = max(1, min(self.tokens, failed) // 2)
        self._well = 0

    def grow(self) -> None:
        """A batch went well; enough of them double the budget."""
        self._well += 1
        if self._well >= GROW_AFTER and self.tokens < self._most:
            self.tokens = min(self._most, 2 * self.tokens)
            self._well = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or (a plain RuntimeError) on a CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate memory" in text
    )
