"""Linear layers that multiply 8-bit integers, and the sample of texts that their scales fit."""
